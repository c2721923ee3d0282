"""The bucket format: what the objects of a store mean. docs/formats/store.md is its text, this package its only code.

keys (what is derived from the town's key) → sealing (one authenticated piece) → frames (what a pack's directory says) →
packs (many pieces in one object) → sending, streaming (the threads) → blobs (a piece found by its id) → content (a byte
stream as blobs) → trees (directories) → commits (whole states) → lock, keyfile, remembered (whose keys count, where
they lie, what was seen of them last) → opening (is this store ours?). Each module knows those before it.
"""

FORMAT = "nuketown-store"
VERSION = 2
