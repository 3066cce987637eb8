"""Several images at one place: echoes, of which one is used, and images of other kinds, which are never mixed.

An image's kind is given by Image Type (PS3.3 C.7.6.1.1.2), by Frame Type and by Complex Image Component (C.8.13.3.1):
magnitude, phase, water, fat, a map derived from others. A map or a phase is not an echo; a missing echo time is not 0.
"""

import re
from collections.abc import Callable, Hashable, Sequence

from unet_factory.domain.errors import SlicesAmbiguous
from unet_factory.domain.image_choice import ImageChoice
from unet_factory.volume.dicom.choice import counted, grouped
from unet_factory.volume.dicom.slices import Slice

_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}", re.ASCII)
_NUMBERED_ECHO = re.compile(r"(TE|E|ECHO)_?\d+", re.ASCII)
_SAME_ECHO_MS = 0.01
_NAMED = 6
_CONTENTS = frozenset(
    "P PHASE PHASE_MAP R REAL I IMAGINARY W WATER F FAT IP IN_PHASE OP OPP_PHASE OUT_PHASE OUT_OF_PHASE ADC FA".split()  # noqa: SIM905
) | {"PHASE MAP", "T1 MAP", "T2 MAP", "T2_STAR MAP", "B0 MAP", "MAP"}


def chosen_images(slices: Sequence[Slice], choice: ImageChoice) -> list[Slice]:
    """The slices that the caller asks for.

    Raises:
        SlicesAmbiguous: there are none; the message names what there is.
    """
    found = _of_type(list(slices), choice.image_type)
    if choice.echo_time_ms is not None:
        found = [one for one in found if _has_echo_time(one, choice.echo_time_ms)]
    if not found:
        raise SlicesAmbiguous(
            f"no image has the image type and the echo time that were asked for; there are {_kinds(slices)}"
        )
    return found


def one_kind(places: Sequence[Sequence[Slice]]) -> tuple[list[Slice], str]:
    """One slice at each of the ``places``, in their order, and what was chosen among echoes: the first one.

    Raises:
        SlicesAmbiguous: images of several kinds, or several at one place that are not the same echoes everywhere.
    """
    slices = [one for place in places for one in place]
    crowded = [place for place in places if len(place) > 1]
    if not crowded:
        _check_one_content(slices)
        return slices, ""
    echoes = grouped(slices, _echo)
    is_complete = all(len(grouped(place, _echo)) == len(place) == len(echoes) for place in places)
    if is_complete and len(echoes) > 1 and len(grouped(slices, _kind)) == 1 and _have_an_order(list(echoes)):
        first = min(echoes, key=lambda echo: (echo[0] or 0, echo[1] or 0))
        said = f"number {first[1]}" if first[0] is None else f"time {first[0]:g} ms"
        return echoes[first], f"chose the first of {len(echoes)} echoes (echo {said})"
    raise SlicesAmbiguous(_crowding(places, crowded), places=len(places), crowded=len(crowded))


def _crowding(places: Sequence[Sequence[Slice]], crowded: Sequence[Sequence[Slice]]) -> str:
    slices = [one for place in places for one in place]
    shown = "; ".join(
        f"{place[0].place_mm:.2f} mm: {', '.join(one.name for one in place[:3])}" for place in crowded[:3]
    )
    kinds = grouped(slices, _kind)
    advice = (
        f"they are {_kinds(slices)}; choose one by image_type" if len(kinds) > 1 else "send one slice for each place"
    )
    if len({one.identity.echo_time_ms for one in slices} - {None}) > 1:
        advice += ", or by echo_time_ms"
    return f"{len(crowded)} of {len(places)} places have several slices ({_reasons(slices)}), at {shown}; {advice}"


def _check_one_content(slices: Sequence[Slice]) -> None:
    """Magnitude and phase do not form one stack, even if there is only one slice at each place."""
    if len(grouped(slices, lambda one: frozenset(one.identity.kind) & _CONTENTS)) > 1:
        raise SlicesAmbiguous(f"the slices show different things: {_kinds(slices)}; choose one by image_type")


def _of_type(slices: list[Slice], wanted: tuple[str, ...]) -> list[Slice]:
    """With exactly these values where there are any such, else with these among others."""
    if not wanted:
        return slices
    exact = [one for one in slices if one.identity.kind == wanted]
    return exact or [one for one in slices if set(wanted) <= set(one.identity.kind)]


def _has_echo_time(one: Slice, wanted_ms: float) -> bool:
    found_ms = one.identity.echo_time_ms
    return found_ms is not None and abs(found_ms - wanted_ms) <= _SAME_ECHO_MS


def _kind(one: Slice) -> tuple[str, ...]:
    """What the image is, apart from which echo it is."""
    return tuple(value for value in one.identity.kind if not _NUMBERED_ECHO.fullmatch(value))


def _echo(one: Slice) -> tuple[float | None, int | None]:
    return one.identity.echo_time_ms, one.identity.echo_number


def _have_an_order(echoes: Sequence[tuple[float | None, int | None]]) -> bool:
    """All have a time, or all a number and none a time."""
    times, numbers = [ms for ms, _ in echoes], [number for _, number in echoes]
    return None not in times or (not any(times) and None not in numbers)


def _kinds(slices: Sequence[Slice]) -> str:
    """Such as ``ORIGINAL\\PRIMARY\\M: 7 slices, echo time 5 ms; ...``."""
    groups = grouped(slices, lambda one: (_named(_kind(one)), one.identity.echo_time_ms))
    said = [
        f"{name}: {counted(len(group), 'slice')}, {'no echo time' if echo_ms is None else f'echo time {echo_ms:g} ms'}"
        for (name, echo_ms), group in groups.items()
    ]
    return "; ".join(said[:_NAMED]) + (f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else "")


def _named(kind: tuple[str, ...]) -> str:
    """Code strings can be quoted; any other text may be about a patient."""
    return "\\".join(value if _CODE_STRING.fullmatch(value) else "?" for value in kind) or "no image type"


def _reasons(slices: Sequence[Slice]) -> str:
    """What differs between the slices, of all that may put several at one place."""
    values: dict[str, Callable[[Slice], Hashable]] = {
        "echo time": _echo,
        "temporal position": lambda one: one.identity.temporal_position,
        "trigger time": lambda one: one.identity.trigger_time_ms,
        "b-value": lambda one: one.identity.b_value,
        "acquisition": lambda one: one.identity.acquisition,
        "image type": _kind,
    }
    counts = {noun: len({value(one) for one in slices}) for noun, value in values.items()}
    reasons = [counted(count, noun) for noun, count in counts.items() if count > 1]
    return ", ".join(reasons) or "nothing in their headers tells them apart"
