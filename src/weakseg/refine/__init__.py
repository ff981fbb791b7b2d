"""Maps to better maps: refiners that chain, and the step from maps to masks."""
