"""What differs between two homes of an agent, whatever each of them is: kept, living, a state of the store.

`sides` opens both as trees; `pairs` goes through two trees at once and tells `found` of each difference; `found` pairs
what was renamed and gives all of it sorted. Where both are snapshots of one subvolume the filesystem says what changed
since they parted (`ancestry`), and nothing else is looked at. docs/decisions/0073.
"""
