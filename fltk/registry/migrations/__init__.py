"""Schema migrations, shipped with the package and run by `fltk.registry.migrate`."""
