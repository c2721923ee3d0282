"""The bucket format: what the objects of a store mean. docs/formats/store.md is its text, this package its only code.

keys (what is derived from the town's key) → sealing (one authenticated piece) → packs (many in one object) → blobs
(a piece found by its id) → content (a byte stream as blobs) → trees (directories) → commits (whole states) → opening
(is this store ours?). Each module knows those before it.
"""

FORMAT = "nuketown-store"
VERSION = 1
