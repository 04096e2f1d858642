"""How exporters and authors write each operator: (name, operator, inputs, lines)."""

from __future__ import annotations

CENTRED = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) "
TWICE = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) m2 = ReduceMean<axes=[-1]>(x) d2 = Sub(x, m2) "
VARIANCE = "s = Pow(d, two) v = ReduceMean<axes=[-1]>(s) e = Add(v, eps) r = Sqrt(e) "
SQUARED = "s = Mul(x, x) v = ReduceMean<axes=[-1]>(s) e = Add(eps, v) r = Sqrt(e) "
INVERSE = "s = Mul(d, d) v = ReduceMean<axes=[-1]>(s) e = Add(eps, v) q = Sqrt(e) r = Reciprocal(q) "

LAYER_NORMALIZATION = [
    ("older", ("x", "g", "b"), CENTRED + VARIANCE + "n = Div(d, r) a = Mul(n, g) y = Add(a, b)"),
    ("newer", ("x", "g", "b"), CENTRED + INVERSE + "n = Mul(d, r) a = Mul(g, n) y = Add(b, a)"),
    ("centred_twice", ("x", "g", "b"), TWICE + VARIANCE + "n = Div(d2, r) a = Mul(n, g) y = Add(a, b)"),
    (
        "one_over",
        ("x", "g", "b"),
        CENTRED + VARIANCE + "i = Div(one, r) n = Mul(d, i) a = Mul(n, g) y = Add(a, b)",
    ),
    (
        "power",
        ("x", "g", "b"),
        CENTRED
        + "s = Pow(d, two) v = ReduceMean<axes=[-1]>(s) e = Add(v, eps) i = Pow(e, minus_half) "
        + "n = Mul(d, i) a = Mul(n, g) y = Add(a, b)",
    ),
    (
        "factor_first",
        ("x", "g", "b"),
        CENTRED + INVERSE + "f = Mul(r, g) l = Mul(x, f) k = Mul(m, f) c = Sub(b, k) y = Add(l, c)",
    ),
    ("scale_of_inverse", ("x", "g", "b"), CENTRED + INVERSE + "f = Mul(r, g) n = Mul(d, f) y = Add(n, b)"),
    ("scale_first", ("x", "g", "b"), CENTRED + VARIANCE + "n = Mul(g, d) a = Div(n, r) y = Add(a, b)"),
    ("bare", ("x", "", ""), CENTRED + VARIANCE + "y = Div(d, r)"),
    ("no_bias", ("x", "g", ""), CENTRED + VARIANCE + "n = Div(d, r) y = Mul(n, g)"),
    ("no_scale", ("x", "", "b"), CENTRED + VARIANCE + "n = Div(d, r) y = Add(n, b)"),
    ("row", ("x", "g_row", "b"), CENTRED + VARIANCE + "n = Div(d, r) a = Mul(n, g_row) y = Add(a, b)"),
    ("shared", ("x", "h", "b"), "h = Identity(g) " + CENTRED + VARIANCE + "n = Div(d, r) a = Mul(n, h) y = Add(a, b)"),
    (
        "positive_axis",
        ("x", "g", "b"),
        (CENTRED + VARIANCE).replace("[-1]", "[2]") + "n = Div(d, r) a = Mul(n, g) y = Add(a, b)",
    ),
]

RMS_NORMALIZATION = [
    ("divided", ("x", "g"), SQUARED + "n = Div(x, r) y = Mul(n, g)"),
    ("reciprocal", ("x", "g"), SQUARED + "i = Reciprocal(r) n = Mul(x, i) y = Mul(g, n)"),
    ("one_over", ("x", "g"), SQUARED + "i = Div(one, r) n = Mul(i, x) y = Mul(g, n)"),
    ("power", ("x", "g"), SQUARED.replace("Mul(x, x)", "Pow(x, two)") + "n = Div(x, r) y = Mul(n, g)"),
    ("bare", ("x", ""), SQUARED + "y = Div(x, r)"),
    ("no_op_casts", ("x", "g"), "c = Cast<to=1>(x) " + SQUARED + "n = Div(c, r) k = Cast<to=1>(n) y = Mul(k, g)"),
]

ERF = "f = Erf(u) p = Add(f, one) "
TANH = "o = Add(x, k) t = Mul(slope, o) h = Tanh(t) p = Add(one, h) "
GELU = [
    ("none", "u = Div(x, root_two) " + ERF + "a = Mul(x, p) y = Mul(a, half)"),
    ("none", "u = Mul(x, root_half) " + ERF + "a = Mul(half, p) y = Mul(x, a)"),
    ("none", "u = Mul(root_half, x) " + ERF + "a = Mul(x, half) y = Mul(a, p)"),
    ("none", "u = Div(x, root_two) " + ERF + "a = Mul(p, x) y = Div(a, two)"),
    ("tanh", "c = Pow(x, three) k = Mul(cubic, c) " + TANH + "a = Mul(half, x) y = Mul(a, p)"),
    ("tanh", "q = Mul(x, x) c = Mul(q, x) k = Mul(c, cubic) " + TANH + "a = Mul(half, p) y = Mul(x, a)"),
    ("tanh", "c = Mul(cubic, x) q = Mul(c, x) k = Mul(x, q) " + TANH + "a = Mul(p, x) y = Mul(half, a)"),
    (
        "tanh",
        "c = Mul(x, cubic) q = Mul(c, x) o = Add(q, one) w = Mul(x, slope) t = Mul(w, o) h = Tanh(t) "
        "p = Add(h, one) a = Mul(x, half) y = Mul(a, p)",
    ),
    (
        "tanh",
        "c = Pow(x, three) k = Mul(cubic, c) o = Add(x, k) t = Div(o, inverse_slope) h = Tanh(t) p = Add(one, h) "
        "a = Mul(half, x) y = Mul(a, p)",
    ),
]

SWISH = [
    (1.0, "s = Sigmoid(x) y = Mul(x, s)"),
    (1.0, "s = Sigmoid(x) y = Mul(s, x)"),
    (1.702, "a = Mul(factor, x) s = Sigmoid(a) y = Mul(x, s)"),
]

GUARDED_SOFTMAX = [
    (-1, "s = Softmax<axis=-1>(x) n = IsNaN(s) y = Where(n, zero, s)"),
    (2, "s = Softmax<axis=2>(x) n = IsNaN(s) y = Where(n, zero, s)"),
]

RATIO = "n = ReduceL2<axes=[1]>(x) m = ReduceMean<axes=[-1]>(n) d = Add(m, eps) r = Div(n, d) p = Mul(x, r) "

RESPONSE_NORMALIZATION = [
    RATIO + "w = Mul(g, p) a = Add(w, b) y = Add(a, x)",
    RATIO + "w = Mul(p, g_row) k = Mul(w, one) a = Add(b, k) y = Add(x, a)",
    RATIO.replace("-1", "2") + "w = Mul(p, g) a = Add(x, w) y = Add(a, b)",
]
"""Of ConvNeXt V2, over rows in place of images."""
