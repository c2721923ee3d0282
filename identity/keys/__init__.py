"""Keys of each kind: made, taken apart into their public halves, compared."""
