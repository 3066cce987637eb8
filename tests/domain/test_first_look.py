"""The spacing of a progressive job's first label map: as fine as a fifth of the time allows."""

from hypothesis import given

from tests.domain.test_cost_model import MANIFEST, MODEL, SHAPES, SPACINGS
from unet_factory.domain.first_look import first_look
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm, plan_spacing
from unet_factory.domain.workload import workload_of


@given(SHAPES, SPACINGS)
def test_it_is_coarser_and_takes_less_than_a_fifth_of_the_time(shape: tuple[int, int, int], mm: SpacingMm) -> None:
    assert MODEL is not None
    plan = plan_spacing(mm, MANIFEST.grid, OutsidePolicy.CLAMP)
    coarse = first_look(MANIFEST, shape, plan, OutsidePolicy.CLAMP, MODEL)
    if coarse is None:
        return
    assert coarse.native_mm == plan.native_mm
    assert all(a >= b for a, b in zip(coarse.working_mm, plan.working_mm, strict=True))
    first, whole = (MODEL.price(workload_of(MANIFEST, shape, each)).seconds for each in (coarse, plan))
    assert first < 0.2 * (first + whole)


def test_a_large_scan_has_one_whether_its_price_is_known_or_not() -> None:
    plan = plan_spacing((0.5, 0.5, 0.5), MANIFEST.grid, OutsidePolicy.CLAMP)
    for costs in (MODEL, None):
        assert first_look(MANIFEST, (160, 160, 160), plan, OutsidePolicy.CLAMP, costs) is not None
        assert first_look(MANIFEST, (4, 4, 4), plan, OutsidePolicy.CLAMP, costs) is None
