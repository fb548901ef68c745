"""What the function finds in a golden image, compared with what the exported file found there when it was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from hpe_tasks.errors import BadInputError
from hpe_tasks.pose.crops import JOINT_SCORE_THRESHOLD
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson
from hpe_tasks.release.golden import is_clear, similarity
from hpe_tasks.release.smoke_test import MIN_OKS


class _Joint(BaseModel):
    name: str
    x: FiniteFloat
    y: FiniteFloat
    score: FiniteFloat


class _PostedPerson(BaseModel):
    joints: list[_Joint]


_PEOPLE: TypeAdapter[list[_PostedPerson]] = TypeAdapter(list[_PostedPerson])


@dataclass(frozen=True)
class ComparedGoldenPerson:
    """A person of a golden image.

    Attributes:
        found: The person's number in the answer, from 0; None where the answer has no person left for him.
        oks: Similarity to where he was, as the smoke test has it; None where he had no confident joint.
        distances_px: Of each joint that both have, in pixels of the image.
        confident: The joints that had a score above 0.2 when they were measured: those that `oks` is about.
    """

    found: int | None
    oks: float | None
    distances_px: dict[str, float]
    confident: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """An answer beside what was measured.

    Attributes:
        same: Whether the smoke test passes it: they are there, and no person's similarity is below `limit`.
        limit: Least similarity.
        clear: How many people had enough confident joints to be compared.
        min_oks: Lowest similarity of these; None where there are none.
        mean_px: Mean distance of their confident joints; None where there is none that both have.
        max_px: The largest of them.
        more: How many people the answer has who were not there.
    """

    same: bool
    limit: float
    people: tuple[ComparedGoldenPerson, ...]
    clear: int
    min_oks: float | None
    mean_px: float | None
    max_px: float | None
    more: int


def read_people(data: bytes, joints: Sequence[str]) -> list[GoldenPerson]:
    """The people of an answer, from its `people` as JSON; raises BadInputError for anything else."""
    try:
        people = _PEOPLE.validate_json(data)
    except ValidationError as error:
        raise BadInputError(
            "This is not the list of people of an answer.", hint="Send what stands under `people`."
        ) from error
    found = []
    for person in people:
        by_name = {joint.name: (joint.x, joint.y, joint.score) for joint in person.joints}
        found.append(GoldenPerson(box=None, joints=tuple(by_name.get(name) for name in joints)))
    return found


def compare(golden: GoldenImage, found: Sequence[GoldenPerson], joints: Sequence[str]) -> Comparison:
    """Compare the people of an answer with the expected ones.

    People in boxes are compared in the order of the boxes. Others each with the most similar one whom none before has
    taken, those with enough joints first: people of fewer may come and go, as in the smoke test.
    """
    free = list(range(len(found)))
    people: dict[int, ComparedGoldenPerson] = {}
    for number, expected in sorted(enumerate(golden.people), key=lambda entry: not is_clear(entry[1])):
        taken = number if expected.box is not None else _most_similar(expected, found, free, joints)
        if taken in free:
            free.remove(taken)
            people[number] = _compared(expected, taken, found[taken], joints)
        else:
            people[number] = _compared(expected, None, None, joints)
    in_order = tuple(people[number] for number in range(len(golden.people)))
    clear = [person for person, one in zip(in_order, golden.people, strict=True) if is_clear(one)]
    similarities = [person.oks for person in clear if person.oks is not None]
    distances = [person.distances_px[j] for person in clear for j in person.confident if j in person.distances_px]
    return Comparison(
        same=_as_many(golden, found, free) and min(similarities, default=1) >= MIN_OKS,
        limit=MIN_OKS,
        people=in_order,
        clear=len(clear),
        min_oks=min(similarities, default=None),
        mean_px=round(sum(distances) / len(distances), 2) if distances else None,
        max_px=max(distances, default=None),
        more=len(free),
    )


def _as_many(golden: GoldenImage, found: Sequence[GoldenPerson], free: Sequence[int]) -> bool:
    """Whether the answer has those people, and, beside those who may come and go, no others."""
    if any(person.box is not None for person in golden.people):
        return len(found) == len(golden.people)
    return sum(is_clear(found[number]) for number in free) <= sum(not is_clear(person) for person in golden.people)


def _most_similar(
    expected: GoldenPerson, found: Sequence[GoldenPerson], free: Sequence[int], joints: Sequence[str]
) -> int | None:
    if not _confident(expected, joints):
        return free[0] if free else None
    return max(free, key=lambda number: similarity(expected, found[number], joints), default=None)


def _compared(
    expected: GoldenPerson, number: int | None, found: GoldenPerson | None, joints: Sequence[str]
) -> ComparedGoldenPerson:
    confident = _confident(expected, joints)
    there: Sequence[tuple[float, float, float] | None] = (None,) * len(joints) if found is None else found.joints
    distances = {
        name: round(math.dist(one[:2], other[:2]), 2)
        for name, one, other in zip(joints, expected.joints, there, strict=True)
        if one is not None and other is not None
    }
    not_found = GoldenPerson(box=None, joints=(None,) * len(joints))
    oks = round(similarity(expected, found or not_found, joints), 4) if confident else None
    return ComparedGoldenPerson(number, oks, distances, confident)


def _confident(person: GoldenPerson, joints: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        name
        for name, joint in zip(joints, person.joints, strict=True)
        if joint is not None and joint[2] > JOINT_SCORE_THRESHOLD
    )
