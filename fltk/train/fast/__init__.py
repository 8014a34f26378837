"""Local SGD without autograd or of many clients at once; `fltk.train.machine` says who comes here."""
