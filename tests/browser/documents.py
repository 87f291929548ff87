"""The documentation that the tested demo answers from: two subjects that share no telling word, one per user, and
one page that is out to do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DOCUMENTS: Final = {
    "README.md": """\
# A coast and its hinterland

These pages are kept for whoever comes after us. Each subject has a page of its own, and no page speaks of another.

## Reading them

Begin anywhere. What matters is said once, in the place where a reader would look for it first.
""",
    "docs/first.md": """\
# The lighthouse

A lighthouse stands where a ship would otherwise learn of the reef too late. Ours was lit in 1871 and has burned on
every night since, through two wars and one earthquake.

## The lamp

The lamp is lit half an hour before sunset, and the keeper signs for it. A lamp that goes out is lit again within two
minutes, from the spare that stands ready beside it. **No lamp is left alone while it burns**: the keeper who leaves
the lantern room hands it over by name.

Oil is measured at dusk and at dawn. The difference is written down, because a lamp that drinks more than its share
has a wick that wants trimming.

## The lens

The lens gathers the light of one lamp into four beams. It turns once in twenty seconds on a bed of mercury, driven by
a weight that is wound up by hand every three hours.

| part | cleaned | with |
|---|---|---|
| prisms | every morning | spirit of wine and a linen cloth |
| mercury bed | twice a year | a sieve of fine muslin |

```sh
# The keeper's rule of thumb, in oil per night:
lamp --wick 4 --hours 11
```

## Fog

When the far buoy cannot be seen, the horn is sounded for three seconds in every minute. The lighthouse keeps its lamp
burning all the same, since a fog may lift from above.
""",
    "docs/second.md": """\
# The orchard

An orchard is planted for somebody else: the one who plants a pear tree seldom climbs it. This orchard holds forty-one
trees in four rows, and the oldest was grafted before the road was made.

## The year of an orchard

### Pruning

Prune a tree in the last frost of winter, while the sap is down. Take out what is dead, then what crosses, then what
grows inward, and stop before the tree looks tidy. A branch is cut just outside its collar, so that the bark can close
over it.

### Grafting

A graft joins a twig of the kind you want to a root of the kind that thrives. Match the bark of both on at least one
side, bind it with raffia, and seal it with wax. A graft that has taken shows green in five weeks.

- Whip and tongue for twigs as thick as the stock.
- Cleft for an old tree that is to bear another fruit.

### Harvest

A pear is picked before it is ripe and ripens on a shelf. Lift it to the level of its stalk: if it parts from the
branch, the tree was ready to give it.

## Hostile matter

A page may hold <b onclick="alert(1)">markup</b> and worse, and none of it may do anything in a reader's window.

```html
<script>window.owned = "by the quince page"</script>
<img src="/nowhere.png" onerror="window.owned = 'by a quince picture'">
```
""",
}

ALICE_ASKS: Final = "How is the lamp of the lighthouse lit?"
BOB_ASKS: Final = "When is a tree of the orchard pruned?"

ALICE_ALONE: Final = ("lamp", "lighthouse", "lit", "keeper", "wick", "lantern")
"""Words of Alice's question, and of the pages that answer it. None of them is in what answers Bob, nor on the page."""
BOB_ALONE: Final = ("tree", "orchard", "pruned", "frost", "bark", "sap")


def write_documents(root: Path) -> Path:
    """Lays the documents out under `root`, which it returns."""
    for name, text in DOCUMENTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
