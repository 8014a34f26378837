"""The command line: parse, call one library function, print. stdout carries results only, stderr the rest."""
