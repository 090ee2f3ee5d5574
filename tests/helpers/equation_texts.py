"""The frozen files' equations in the language: as they stand, or rewritten where they are prose.

`AS_THEY_STAND` names the entries whose `equation` is a text of the language, with what is declared
beside it. `REWRITTEN` has the others that the language can say, with the letters of the file;
`NOT_SAID` those that it can't, and why.
"""

AS_THEY_STAND = {
    "lstm": {},
    "gru_reset_after": {},
    "gru_reset_before": {},
    "simple_rnn": {},
    "peephole_lstm": {},
    "cifg_lstm": {},
    "lstmp": {"sizes": {"P": "proj_size"}},
    "layer_norm_simple_rnn": {},
    "nas": {},
    "indrnn": {},
    "mgu": {},
    "fastrnn": {},
    "fastgrnn": {},
    "brc": {},
    "ligru": {},
    "original_lstm": {},
    "esn": {"leaky": 1.0},
    "cfc": {"inputs": ("x", "dt"), "sizes": {"u": "backbone_units"}},
    "min_gru": {},
    "min_lstm": {},
    "qrnn": {},
    "lif": {"beta": 0.9, "threshold": 1.0},
    "scrn": {},
}

REWRITTEN = {
    # "Each norm over the concatenated vector" and "split a into i,f,g,o" are prose.
    "layer_norm_lstm": (
        """
        norm(v) = (v - mean(v))/sqrt(var(v) + epsilon)
        i, f, g, o = split(gamma_x*norm(W@x) + gamma_h*norm(U@h) + b)
        c' = s(f)*c + s(i)*tanh(g)
        h' = s(o)*tanh(gamma_c*norm(c') + beta_c)
        """,
        {},
    ),
    # The rule of the first step is prose, and so is "raw ... with own W, U, b each".
    "slstm": (
        """
        i,f,z,o = W@x + U@y + b with own W,U,b each
        l = logsigmoid(f) + m
        m' = where(max(n) == 0, i, max(i, l))
        I = exp(i-m');  F = exp(l-m')
        c' = F*c + I*tanh(z)
        n' = F*n + I
        y' = s(o)*c'/n'
        """,
        {},
    ),
    # "Over the chunks" and "each chunk value repeated" are prose.
    "on_lstm": (
        """
        chunk_size = 2
        i,f,o = s(W@x + U@h + b), g = tanh(W_g@x + U_g@h + b_g)
        mf = cumsum(softmax(W_mf@x + U_mf@h + b_mf))
        mi = 1 - cumsum(softmax(W_mi@x + U_mi@h + b_mi))
        w = repeat(mf*mi, chunk_size)
        F = f*w + (repeat(mf, chunk_size) - w);  I = i*w + (repeat(mi, chunk_size) - w)
        c' = F*c + I*g
        h' = o*tanh(c')
        """,
        {},
    ),
    # The line between the rounds and the step is prose.
    "mogrifier_lstm": (
        """
        for k = 1..rounds: odd k: x := 2*s(Q@h + b_Q)*x;  even k: h := 2*s(R@x + b_R)*h
        i,f,o = s(W@x + U@h + b);  g = tanh(W_g@x + U_g@h + b_g)
        c' = f*c + i*g;  h' = o*tanh(c')
        """,
        {},
    ),
    # `e.x` is written `e @ x`, and the matrices of the memory are weights.
    "lmu": (
        """
        u = e_x@x + e_h@h + e_m@m   (scalar)
        m' = Ad@m + Bd@u
        h' = tanh(W_x@x + W_h@h + W_m@m')
        """,
        {"sizes": {"u": 1, "m": "order"}, "states": ("h", "m")},
    ),
    # "True sums" and "stored scaled" are prose.
    "rwkv4": (
        """
        k = W_k@x;  v = W_v@x
        N = num*exp(max);  D = den*exp(max)
        y = (N + e^(u+k)*v)/(D + e^(u+k))
        max' = max(max - exp(w), k)
        num' = (exp(-exp(w))*N + e^k*v)/exp(max')
        den' = (exp(-exp(w))*D + e^k)/exp(max')
        """,
        {},
    ),
    # Sums over blocks are one product with a masked matrix, which the file holds; t is a state.
    "clockwork": (
        """
        h' = where(t mod period_of_unit == 0, tanh(W@x + U@h + b), h)
        t' = t + 1
        """,
        {"sizes": {"t": 1}},
    ),
    # The three cases are joined by `else`.
    "phased_lstm": (
        """
        phi = ((time - shift) mod tau)/tau
        k = 2*phi/r_on if phi <= r_on/2 else 2 - 2*phi/r_on if phi <= r_on else alpha*phi
        i,f,o = s(W@x + U@h + b);  g = tanh(W_g@x + U_g@h + b_g)
        c~ = f*c + i*g;  h~ = o*tanh(c~)
        c' = k*c~ + (1-k)*c;  h' = k*h~ + (1-k)*h
        """,
        {"inputs": ("x", "time"), "alpha": 0.001},
    ),
}

NOT_SAID = {
    "mlstm": "its state is a matrix per head",
    "ltc": "it sums over pairs of neurons, with a weight and a sigmoid for each pair",
    "lru": "its state is complex",
    "s4d": "its state is complex, and a matrix",
    "s5": "its state is complex",
    "conv_lstm": "its states are images, its weights convolutions",
    "conv_gru": "its states are images, its weights convolutions",
}
