"""What keeps a store in order: prune and forget remove, verify looks, repair says what can be had back.

policy (which states stay) → epochs (what is there) → holdings and reach (what the states need) → plan (values) → apply
(one loop). Nothing here needs the lease: docs/decisions/0043 says why each of its steps is safe beside a sync.
"""
