"""Where rows of models lie, shared between processes or in files, and how large matrices of them are gone through."""
