"""fltk: experiments in personalised federated learning, from the command line or from Python."""

__version__ = "0.1.0"
