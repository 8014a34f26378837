"""How fast fltk is on this machine: fixed workloads, each beside a reference that is measured at the same time."""
