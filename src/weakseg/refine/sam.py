"""Segments that know no classes vote on the maps: Segment Anything as a refiner.

A. Kirillov, E. Mintun, N. Ravi, H. Mao, C. Rolland, L. Gustafson, T. Xiao, S. Whitehead, A. C. Berg, W.-Y. Lo,
P. Dollár, R. Girshick, "Segment Anything", ICCV 2023; T. Chen, Z. Mai, R. Li, W.-L. Chao, "Segment Anything Model (SAM)
Enhanced Pseudo Labels for Weakly Supervised Semantic Segmentation", arXiv 2305.05803, 2023 (the idea that pseudo-labels
choose among SAM's segments; the rule of the vote is ours).

Maps know what is there but not where it ends; SAM knows where things end but not what they are. Here a segment takes
over the class, or the background, that the maps see in most of it, and gives it sharp borders. A segment in which the
maps see nothing clearly changes nothing.

SAM was trained on masks drawn by people, none of them with classes: what it adds is stronger than tags alone.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.refine.masks import at_image_size, background_of
from weakseg.refine.refiner import Refiner

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

DUPLICATE = 0.7
"""Overlap of boxes above which two segments of the grid are one (Kirillov et al., appendix B)."""
STABILITY_OFFSET = 1.0


class Segments(NamedTuple):
    """Regions of an image.

    Attributes:
        masks: (S, H, W) bool, which may overlap.
        quality: (S,) in [0, 1] or a little beside it, the overlap with a true segment that SAM expects.
    """

    masks: Tensor
    quality: Tensor


class Proposals(NamedTuple):
    """What SAM answers to points: for each the whole, a part and a part of that, in no fixed order.

    Attributes:
        logits: (N, 3, H, W), positive inside.
        quality: (N, 3), see ``Segments``.
    """

    logits: Tensor
    quality: Tensor


def vote(scores: Tensor, background: Tensor, segments: Segments, min_share: float) -> tuple[Tensor, Tensor]:
    """Scores that are constant within segments.

    A segment's label is the class, or background, with the highest mean score in it. If it is also the strongest at
    enough of its pixels, all scores in the segment become their means. Where segments overlap the smaller one wins, and
    of equally large ones that of higher quality. Pixels without a segment keep their scores.

    Args:
        scores: (P, H, W) in [0, 1], P may be 0.
        background: (H, W), likewise.
        segments: S regions, also none, also empty ones.
        min_share: Share of a segment's pixels at which its label must be the strongest already.

    Returns:
        Scores and background of the same shapes.
    """
    given = torch.cat([background[None], scores])
    strongest = given.argmax(0)
    voted = given.clone()
    for mask in segments.masks[painting_order(segments)]:
        inside = given[:, mask].double()
        if inside.shape[1] == 0:
            continue
        means = inside.mean(1)
        if (strongest[mask] == means.argmax()).double().mean() >= min_share:
            voted[:, mask] = means[:, None].to(given.dtype)
    return voted[1:], voted[0]


def painting_order(segments: Segments) -> Tensor:
    """(S,) indices: large before small, and among equally large ones the better last."""
    order = segments.quality.argsort(stable=True)
    areas = segments.masks.flatten(1).sum(1)
    return order[areas[order].argsort(descending=True, stable=True)]


def grid(per_side: int) -> Tensor:
    """(per_side^2, 2) points x, y in (0, 1): the middles of equal cells, row by row."""
    middles = (torch.arange(per_side) + 0.5) / per_side
    rows, columns = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([columns, rows], dim=-1).view(-1, 2)


def peaks(scores: Tensor, count: int, min_score: float, distance: float) -> Tensor:
    """The highest points of a map that are not close to a higher one.

    Args:
        scores: (H, W).
        count: At most so many.
        min_score: Lower points are none.
        distance: Two peaks are farther apart than this share of the longer side.

    Returns:
        (N, 2) points x, y in (0, 1), the highest first.
    """
    height, width = scores.shape
    rows = torch.arange(height, device=scores.device)[:, None]
    columns = torch.arange(width, device=scores.device)[None]
    left, found = scores.clone(), []
    for _ in range(count):
        row, column = divmod(int(left.argmax()), width)
        if not left[row, column] >= min_score:
            break
        found.append(((column + 0.5) / width, (row + 0.5) / height))
        near = (rows - row) ** 2 + (columns - column) ** 2 <= (distance * max(height, width)) ** 2
        left[near] = -torch.inf
    return torch.tensor(found).view(-1, 2)


def stability(logits: Tensor) -> Tensor:
    """Overlap of the masks that a stricter and a laxer threshold give (Kirillov et al., appendix B).

    Args:
        logits: (..., H, W).

    Returns:
        (...) in [0, 1]; 0 where both are empty.
    """
    strict, lax = (logits > STABILITY_OFFSET).sum((-2, -1)), (logits > -STABILITY_OFFSET).sum((-2, -1))
    return strict / lax.clamp(min=1)


def certain(proposals: Proposals, min_quality: float, min_stability: float) -> Segments:
    """All proposals that SAM is sure of, empty ones left out."""
    masks, quality = (proposals.logits > 0).flatten(0, 1), proposals.quality.flatten()
    sure = (quality >= min_quality) & (stability(proposals.logits).flatten() >= min_stability)
    kept = sure & masks.flatten(1).any(1)
    return Segments(masks[kept], quality[kept])


def best(proposals: Proposals) -> Segments:
    """Of each point's proposals the one with the highest quality."""
    chosen = torch.arange(len(proposals.quality), device=proposals.quality.device), proposals.quality.argmax(1)
    return Segments(proposals.logits[chosen] > 0, proposals.quality[chosen])


def distinct(segments: Segments) -> Segments:
    """Of segments whose boxes nearly coincide only the best; no segment may be empty."""
    if len(segments.masks) == 0:
        return segments
    corners = masks_to_boxes(segments.masks)
    corners[:, 2:] += 1
    kept = nms(corners, segments.quality, DUPLICATE)
    return Segments(segments.masks[kept], segments.quality[kept])


def joined(found: list[Segments], size: tuple[int, int], like: Tensor) -> Segments:
    """Several lots of segments as one, also if there is none."""
    masks = [like.new_zeros(0, *size, dtype=torch.bool), *(segments.masks for segments in found)]
    quality = [like.new_zeros(0, dtype=torch.float32), *(segments.quality for segments in found)]
    return Segments(torch.cat(masks), torch.cat(quality))


class SegmentAnything:
    """SAM of Hugging Face's transformers.

    Args:
        name: Model on the hub, or a local folder; safetensors only.
        device: Where to compute.

    Raises:
        UserError: If there is no such model, it is no SAM, or lacks weights.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        try:
            self.model, self.processor = _from_pretrained(name)
        except Exception as error:  # hub, files and formats make transformers raise nearly anything
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(
                f"SAM '{name}' cannot be had ({reason})",
                where="refine",
                remedy="Check name and network, or set model to a local folder with config.json, model.safetensors and "
                "preprocessor_config.json",
            ) from error
        self.model.to(device).eval()

    @torch.no_grad()
    def embed(self, image: Tensor) -> tuple[Tensor, Any]:
        """What is computed once for an image of (3, H, W) uint8: its embedding, and how it was scaled."""
        inputs = self.processor(images=image, return_tensors="pt", input_data_format="channels_first")
        return self.model.get_image_embeddings(inputs["pixel_values"].to(image.device)), inputs

    @torch.no_grad()
    def propose(self, embedding: Tensor, inputs: Any, points: Tensor) -> Proposals:  # noqa: ANN401
        """Answers to (N, 2) points x, y in (0, 1), of which each stands for itself."""
        height, width = (int(side) for side in inputs["reshaped_input_sizes"][0])
        places = (points * points.new_tensor([width, height])).to(embedding)[None, :, None]
        labels = torch.ones(places.shape[:-1], dtype=torch.long, device=places.device)
        answer = self.model(image_embeddings=embedding, input_points=places, input_labels=labels)
        (logits,) = self.processor.post_process_masks(
            answer.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
        )
        return Proposals(logits, answer.iou_scores[0])


def _from_pretrained(name: str) -> tuple[Any, Any]:
    """Model and image processor.

    Raises:
        ValueError: If it is no SAM, or lacks weights; transformers would go on with random ones.
        OSError: If it cannot be found.
    """
    from transformers import AutoConfig, SamConfig, SamImageProcessor, SamModel

    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, SamConfig):
        raise ValueError(f"it is a model of type '{config.model_type}', not 'sam'")
    model, report = SamModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    if report["missing_keys"]:
        raise ValueError(f"it lacks {len(report['missing_keys'])} tensors")
    return model, SamImageProcessor.from_pretrained(name)


@lru_cache(maxsize=1)
def segment_anything(name: str, device: torch.device) -> SegmentAnything:
    """The model, loaded once in a process.

    Raises:
        UserError: If it cannot be had.
    """
    return SegmentAnything(name, device)


class SAMRefiner(Refiner):
    """Segments of Segment Anything vote on the maps, at image size.

    Args:
        model: Name of a SAM on Hugging Face's hub, or a local folder with one.
        mode: ``"segments"`` asks SAM for everything in the image, at a grid of points; ``"peaks"`` only for what is at
            the peaks of the classes' maps, which is much faster and leaves the background to the maps.
        min_share: Share of a segment's pixels at which its label must be the strongest before the vote.
        points_per_side: Of the grid; its square is the number of points.
        min_quality: Segments of the grid for which SAM expects a lower overlap with a true segment are left out.
        min_stability: Segments of the grid that change more with the threshold are left out.
        max_peaks: Of each class.
        min_peak: Score that a peak must have.
        peak_distance: Two peaks of a class are farther apart than this share of the longer side.
        batch: Points that are answered together; fewer need less memory.

    Raises:
        UserError: If transformers is not installed, or there is no such folder.
    """

    needs_background = True

    def __init__(
        self,
        *,
        model: str = "facebook/sam-vit-base",
        mode: Literal["segments", "peaks"] = "segments",
        min_share: Share = 0.5,
        points_per_side: Count = 32,
        min_quality: Share = 0.88,
        min_stability: Share = 0.95,
        max_peaks: Count = 5,
        min_peak: Share = 0.5,
        peak_distance: Share = 0.1,
        batch: Count = 64,
    ) -> None:
        if find_spec("transformers") is None:
            raise UserError("refiner 'sam' needs transformers", where="refine", remedy="pip install 'weakseg[sam]'")
        if model.startswith(("/", ".", "~")) and not Path(model).is_dir():
            raise UserError("no such folder with a SAM", where=model, remedy="Set model to a folder or a hub's name")
        self.model, self.mode, self.min_share, self.batch = model, mode, min_share, batch
        self.points_per_side, self.min_quality, self.min_stability = points_per_side, min_quality, min_stability
        self.max_peaks, self.min_peak, self.peak_distance = max_peaks, min_peak, peak_distance

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Maps that are constant within segments."""
        full = at_image_size(maps)
        background = background_of(full)
        if len(full.classes) == 0:
            return full
        return full.with_scores(*vote(full.scores, background, self.segments(image, full), self.min_share))

    def segments(self, image: Tensor, maps: LocalizationMaps) -> Segments:
        """What votes, for maps at image size."""
        points = grid(self.points_per_side) if self.mode == "segments" else self._peaks(maps)
        found = []
        if len(points):
            sam = segment_anything(self.model, image.device)
            embedding, inputs = sam.embed(image)
            for start in range(0, len(points), self.batch):
                proposals = sam.propose(embedding, inputs, points[start : start + self.batch])
                found.append(self._chosen(proposals))
        together = joined(found, maps.size, maps.scores)
        return distinct(together) if self.mode == "segments" else together

    def _peaks(self, maps: LocalizationMaps) -> Tensor:
        return torch.cat([peaks(scores, self.max_peaks, self.min_peak, self.peak_distance) for scores in maps.scores])

    def _chosen(self, proposals: Proposals) -> Segments:
        if self.mode == "peaks":
            return best(proposals)
        return certain(proposals, self.min_quality, self.min_stability)
