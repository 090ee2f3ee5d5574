"""`cellkit bench`: how fast a cell runs beside what else could run it.

The parent process imports no backend: it plans (`plan`), starts one worker per backend (`worker`)
and shows what came back (`report`, `plots`). A worker makes the contestants of its backend
(`contestants`), checks that they compute the same, and lets them run in turns (`timing`).
"""
