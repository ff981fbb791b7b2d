"""Built-in demo scenes: drawn from a seed, with exact labels, and with the field's real difficulties in them.

Cats and dogs share a body and differ in the face; cars, buses and trains share paints and plain panels; a train never
comes without rails nor a boat without water; some objects hide others; the saliency maps make a detector's mistakes.
"""

from weakseg.data.scenes.compose import make_scene
from weakseg.data.scenes.scene import OBJECT_HERE, SCENE_CLASSES, SCENE_CONTEXTS, Scene
from weakseg.data.scenes.tree import write_scenes

__all__ = ["OBJECT_HERE", "SCENE_CLASSES", "SCENE_CONTEXTS", "Scene", "make_scene", "write_scenes"]
