"""Local SGD without autograd or of many clients at once; `fltk.train.backend` says who comes here."""
