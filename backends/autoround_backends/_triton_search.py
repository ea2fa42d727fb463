"""The search for scales in Triton: groups stay in registers while every candidate is tried.

The candidates, their order, the strict comparison and the arithmetic of each weight are those of
autoround/core/search.py and search_nested.py, roundings as in _triton_tuning.py. Sums over a group
are added up in another order, so two candidates whose errors are equal to the last digits may
change places.

``groups`` is float32 [total, WIDTH], ``count`` of them a row. ``importance`` is [n * count, WIDTH],
each of the n for ``per`` rows that follow each other; it is not read unless WEIGHTED. Groups wider
than BLOCK_W keep their first BLOCK_W weights in registers and read the others anew for every
candidate. A group g has the levels low ... low + top, and stands for ``level * scale - minimum``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autoround_backends._triton_tuning import _MAX_SCALE, _MIN_SCALE, _round_even

#: Sizes that differ from layer to layer: a kernel of its own for each would be compiled for long.
_SIZES = ["total", "count", "per", "rungs", "tries", "refinements"]
#: Keeps divisions of nothing by nothing finite.
_TINY = tl.constexpr(1e-30)
#: The least scale of a super-block, as in autoround/core/grids/scales.py.
_MIN_SUPER_SCALE = tl.constexpr(5.9604644775390625e-08)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _place(total, BLOCK_G: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the groups of this program, and which of them exist."""
    # int64: groups times their width leaves 32 bits in the experts of a large layer.
    g = tl.program_id(0).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)
    return g, g < total


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _tile(  # type: ignore[no-untyped-def]
    groups, importance, g, inside, count, per, start,
    WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Return weights and their importance; both are 0 beyond the end of a group."""
    k = start + tl.arange(0, BLOCK_W)
    mask = inside[:, None] & (k < WIDTH)[None, :]
    w = tl.load(groups + g[:, None] * WIDTH + k[None, :], mask=mask, other=0.0)
    if WEIGHTED:
        row = (g // count) // per * count + g % count
        h = tl.load(importance + row[:, None] * WIDTH + k[None, :], mask=mask, other=0.0)
    else:
        h = tl.where(mask, 1.0, 0.0)
    return w, h


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _ends(  # type: ignore[no-untyped-def]
    w, groups, g, inside, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr
):
    """Return the least and the greatest weight of groups, or zero where that lies beyond them."""
    # What lies beyond a group reads as zero, which the range holds anyway.
    lo, hi = tl.min(w, axis=1), tl.max(w, axis=1)
    if WIDTH > BLOCK_W:
        for start in range(BLOCK_W, WIDTH, BLOCK_W):
            v, _h = _tile(groups, groups, g, inside, 1, 1, start, WIDTH, BLOCK_W, False)
            lo = tl.minimum(lo, tl.min(v, axis=1))
            hi = tl.maximum(hi, tl.max(v, axis=1))
    return tl.minimum(lo, 0.0), tl.maximum(hi, 0.0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _level(w, scale, minimum, low, top, MINIMUM: tl.constexpr):  # type: ignore[no-untyped-def]
    # div_rn takes tensors of one shape: adding zeros makes a column one.
    step = scale[:, None] + tl.zeros_like(w)
    if MINIMUM:
        w = w + minimum[:, None]
    nearest = _round_even(tl.math.div_rn(w, step))
    return tl.minimum(tl.maximum(nearest, low[:, None]), (low + top)[:, None])


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _tile_error(  # type: ignore[no-untyped-def]
    w, h, scale, minimum, low, top, MINIMUM: tl.constexpr
):
    difference = _level(w, scale, minimum, low, top, MINIMUM) * scale[:, None]
    if MINIMUM:
        difference = difference - minimum[:, None]
    difference = difference - w
    return tl.sum(difference * difference * h, axis=1)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _error(  # type: ignore[no-untyped-def]
    w, h, groups, importance, g, inside, count, per, scale, minimum, low, top,
    MINIMUM: tl.constexpr, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Return the weighted squared error of every group."""
    error = _tile_error(w, h, scale, minimum, low, top, MINIMUM)
    if WIDTH > BLOCK_W:
        for start in range(BLOCK_W, WIDTH, BLOCK_W):
            v, i = _tile(groups, importance, g, inside, count, per, start, WIDTH, BLOCK_W, WEIGHTED)
            error += _tile_error(v, i, scale, minimum, low, top, MINIMUM)
    return error


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _half(raw, smallest: tl.constexpr = _MIN_SCALE):  # type: ignore[no-untyped-def]
    """Round a scale to float16 by magnitude, which is held above zero."""
    size = tl.minimum(tl.maximum(tl.abs(raw), smallest), _MAX_SCALE)
    size = size.to(tl.float16).to(tl.float32)
    return tl.where(raw < 0, -size, size)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _least_squares(w, h, scale, low, top):  # type: ignore[no-untyped-def]
    """Return the two sums that the best scale for the codes of a group is the quotient of."""
    value = _level(w, scale, scale, low, top, False)
    weighted = value * h
    return tl.sum(weighted * value, axis=1), tl.sum(weighted * w, axis=1)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _refine(  # type: ignore[no-untyped-def]
    w, h, groups, importance, g, inside, count, per, best_error, best_scale, best_zero, top,
    WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Fit the scale to the codes of the best candidate; keep it where the error falls."""
    power, product = _least_squares(w, h, best_scale, -best_zero, top)
    if WIDTH > BLOCK_W:
        for start in range(BLOCK_W, WIDTH, BLOCK_W):
            v, i = _tile(groups, importance, g, inside, count, per, start, WIDTH, BLOCK_W, WEIGHTED)
            more, also = _least_squares(v, i, best_scale, -best_zero, top)
            power += more
            product += also
    scale = _half(tl.math.div_rn(product, tl.maximum(power, _TINY)))
    scale = tl.where(power > 0, scale, best_scale)
    error = _error(
        w, h, groups, importance, g, inside, count, per, scale, best_scale, -best_zero, top,
        False, WIDTH, BLOCK_W, WEIGHTED,
    )  # fmt: skip
    better = error < best_error
    best_error = tl.where(better, error, best_error)
    best_scale = tl.where(better, scale, best_scale)
    return best_error, best_scale


@triton.jit(do_not_specialize=_SIZES)  # type: ignore[untyped-decorator, unused-ignore]
def search(  # type: ignore[no-untyped-def]
    groups, importance, fractions, lo_out, hi_out,
    total, count, per, rungs, tries, refinements, top, lowest,
    WIDTH: tl.constexpr, SYM: tl.constexpr, ALL_ZEROS: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Find scale and zero point of least error; what is written is the range they span.

    fractions: float32 [rungs], of the min-max scale. top: the highest code. lowest: the least zero
    point. tries: of a rung: two signs, five zero points about the middle, or with ALL_ZEROS all.
    """
    g, inside = _place(total, BLOCK_G)
    w, h = _tile(groups, importance, g, inside, count, per, 0, WIDTH, BLOCK_W, WEIGHTED)
    least, hi = _ends(w, groups, g, inside, WIDTH, BLOCK_W)
    nothing = tl.zeros_like(least)
    half = (top + 1.0) * 0.5 + nothing
    if SYM:
        first = _half(tl.math.div_rn(tl.where(-least > hi, -least, -hi), half))
        best_zero = half
    else:
        lo = tl.minimum(least, tl.math.div_rn(-hi * lowest, (top - lowest) + nothing))
        first = _half(tl.math.div_rn(hi - lo, top + nothing))
        best_zero = _round_even(tl.math.div_rn(-lo, first))
        best_zero = tl.minimum(tl.maximum(best_zero, lowest), top)
    best_scale = first
    best_error = _error(
        w, h, groups, importance, g, inside, count, per, first, nothing, -best_zero, top,
        False, WIDTH, BLOCK_W, WEIGHTED,
    )  # fmt: skip
    for rung in range(rungs):
        fraction = tl.load(fractions + rung)
        trial = _half(first * fraction)
        centre = lowest + nothing
        if not SYM and not ALL_ZEROS:
            centre = _round_even(tl.math.div_rn(-least * fraction, trial)) - 2.0
        for number in range(tries):
            scale, zero = trial, best_zero
            if SYM:
                scale = trial * (1.0 - 2.0 * number)
            else:
                zero = tl.minimum(tl.maximum(centre + number * 1.0, lowest), top)
            error = _error(
                w, h, groups, importance, g, inside, count, per, scale, nothing, -zero, top,
                False, WIDTH, BLOCK_W, WEIGHTED,
            )  # fmt: skip
            better = error < best_error
            best_error = tl.where(better, error, best_error)
            best_scale = tl.where(better, scale, best_scale)
            best_zero = tl.where(better, zero, best_zero)
    for _refinement in range(refinements):
        best_error, best_scale = _refine(
            w, h, groups, importance, g, inside, count, per, best_error, best_scale, best_zero,
            top, WIDTH, BLOCK_W, WEIGHTED,
        )  # fmt: skip
    _store_range(lo_out, hi_out, g, inside, best_scale, best_zero, top, SYM)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _store_range(  # type: ignore[no-untyped-def]
    lo_out, hi_out, g, inside, scale, zero, top, SYM: tl.constexpr
):
    """Write the range whose scale and zero point are the given ones."""
    if SYM:
        reach = tl.abs(scale) * ((top + 1.0) * 0.5)
        tl.store(lo_out + g, tl.where(scale > 0, -reach, 0.0), mask=inside)
        tl.store(hi_out + g, tl.where(scale > 0, 0.0, reach), mask=inside)
    else:
        tl.store(lo_out + g, -zero * scale, mask=inside)
        tl.store(hi_out + g, (top - zero) * scale, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _fit_sums(w, h, scale, minimum, top):  # type: ignore[no-untyped-def]
    """Return the sums of h, hc, hcc, hw and hcw over groups, with c the codes of a trial."""
    code = _level(w, scale, minimum, tl.zeros_like(scale), top, True)
    weighted = h * code
    return (
        tl.sum(h, axis=1),
        tl.sum(weighted, axis=1),
        tl.sum(weighted * code, axis=1),
        tl.sum(h * w, axis=1),
        tl.sum(weighted * w, axis=1),
    )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _fit(  # type: ignore[no-untyped-def]
    w, h, groups, importance, g, inside, count, per, scale, minimum, top,
    WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Fit scale and minimum to the codes of a trial; returns them with their error."""
    whole, by_code, by_square, by_weight, product = _fit_sums(w, h, scale, minimum, top)
    if WIDTH > BLOCK_W:
        for start in range(BLOCK_W, WIDTH, BLOCK_W):
            v, i = _tile(groups, importance, g, inside, count, per, start, WIDTH, BLOCK_W, WEIGHTED)
            h1, hc, hcc, hw, hcw = _fit_sums(v, i, scale, minimum, top)
            whole += h1
            by_code += hc
            by_square += hcc
            by_weight += hw
            product += hcw
    spread = whole * by_square - by_code * by_code
    slope = tl.math.div_rn(whole * product - by_code * by_weight, tl.maximum(spread, _TINY))
    offset = tl.math.div_rn(slope * by_code - by_weight, tl.maximum(whole, _TINY))
    alone = tl.math.div_rn(product, tl.maximum(by_square, _TINY))
    fitted = tl.where(offset > 0, slope, alone)
    usable = (spread > 0) & (fitted > 0)
    fitted = tl.where(usable, fitted, scale)
    offset = tl.where(usable, tl.maximum(offset, 0.0), minimum)
    error = _error(
        w, h, groups, importance, g, inside, count, per, fitted, offset,
        tl.zeros_like(fitted), top, True, WIDTH, BLOCK_W, WEIGHTED,
    )  # fmt: skip
    return error, fitted, offset


@triton.jit(do_not_specialize=_SIZES)  # type: ignore[untyped-decorator, unused-ignore]
def fit_minima(  # type: ignore[no-untyped-def]
    groups, importance, fractions, lo_out, hi_out,
    total, count, per, rungs, tries, refinements, top, lowest,
    WIDTH: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Find the scale and the minimum of least error together; arguments as for ``search``."""
    g, inside = _place(total, BLOCK_G)
    w, h = _tile(groups, importance, g, inside, count, per, 0, WIDTH, BLOCK_W, WEIGHTED)
    lo, hi = _ends(w, groups, g, inside, WIDTH, BLOCK_W)
    nothing = tl.zeros_like(lo)
    lo = tl.minimum(lo, tl.math.div_rn(-hi * lowest, (top - lowest) + nothing))
    whole = tl.maximum(tl.math.div_rn(hi - lo, top + nothing), _TINY)
    centre = (hi + lo) * 0.5
    best_scale, best_minimum = whole, -lo
    best_error = _error(
        w, h, groups, importance, g, inside, count, per, whole, -lo, nothing, top,
        True, WIDTH, BLOCK_W, WEIGHTED,
    )  # fmt: skip
    for number in range(tries * rungs + refinements):
        # Levels around the middle of the range, then the same share cut off both of its ends; the
        # last turns fit to the codes of the best trial.
        on_ladder = nothing + number < tries * rungs * 1.0
        fraction = tl.load(fractions + tl.minimum(number // tries, rungs - 1))
        scale = whole * fraction
        around = tl.maximum(scale * top * 0.5 - centre, 0.0)
        minimum = tl.where((nothing + number % tries) == 0, around, -lo * fraction)
        scale = tl.where(on_ladder, scale, best_scale)
        minimum = tl.where(on_ladder, minimum, best_minimum)
        error, scale, minimum = _fit(
            w, h, groups, importance, g, inside, count, per, scale, minimum, top,
            WIDTH, BLOCK_W, WEIGHTED,
        )  # fmt: skip
        better = error < best_error
        best_error = tl.where(better, error, best_error)
        best_scale = tl.where(better, scale, best_scale)
        best_minimum = tl.where(better, minimum, best_minimum)
    tl.store(lo_out + g, -best_minimum, mask=inside)
    tl.store(hi_out + g, top * best_scale - best_minimum, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _super_max(x, SUPER: tl.constexpr, BLOCK_G: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the greatest of every SUPER groups that follow each other, for each of them."""
    greatest = tl.max(tl.reshape(x, [BLOCK_G // SUPER, SUPER]), axis=1)
    shared = tl.broadcast_to(greatest[:, None], [BLOCK_G // SUPER, SUPER])
    return tl.reshape(shared, [BLOCK_G])


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _integers(  # type: ignore[no-untyped-def]
    lo, hi, top, low, high, SYM: tl.constexpr, SUPER: tl.constexpr, BLOCK_G: tl.constexpr
):
    """Return scales and minima of groups as their super-blocks hold them: units and integers.

    The last one tells the groups that keep theirs, by which the unit is known.
    """
    nothing = tl.zeros_like(lo)
    if SYM:
        scale = tl.math.div_rn(tl.where(-lo > hi, -lo, -hi), (top + 1.0) * 0.5 + nothing)
        most, least = _super_max(scale, SUPER, BLOCK_G), -_super_max(-scale, SUPER, BLOCK_G)
        furthest = tl.where(most >= -least, most, least)
        unit = _half(tl.math.div_rn(furthest, low + nothing), _MIN_SUPER_SCALE)
        integer = _round_even(tl.math.div_rn(scale, unit))
        integer = tl.where(integer == 0, 1.0, integer)
        integer = tl.minimum(tl.maximum(integer, low), high)
        return unit, integer, nothing, nothing, integer == low
    scale = tl.math.div_rn(hi - lo, top + nothing)
    unit = _half(
        tl.math.div_rn(_super_max(scale, SUPER, BLOCK_G), high + nothing), _MIN_SUPER_SCALE
    )
    integer = _round_even(tl.math.div_rn(scale, unit))
    integer = tl.minimum(tl.maximum(integer, low), high)
    minimum_unit = _half(
        tl.math.div_rn(_super_max(-lo, SUPER, BLOCK_G), high + nothing), _MIN_SUPER_SCALE
    )
    minimum_integer = _round_even(tl.math.div_rn(-lo, minimum_unit))
    minimum_integer = tl.minimum(tl.maximum(minimum_integer, 0.0), high)
    fixed = (integer == high) | (minimum_integer == high)
    return unit, integer, minimum_unit, minimum_integer, fixed


@triton.jit(do_not_specialize=_SIZES)  # type: ignore[untyped-decorator, unused-ignore]
def correct(  # type: ignore[no-untyped-def]
    groups, importance, lo_in, hi_in, lo_out, hi_out,
    total, count, per, top, low, high,
    WIDTH: tl.constexpr, SYM: tl.constexpr, SUPER: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Round ranges to super-blocks of SUPER groups, and try the neighbours of their integers.

    lo_in, hi_in: float32 [total], ranges that no super-block has rounded. low, high: the least and
    the greatest integer of a scale.
    """
    g, inside = _place(total, BLOCK_G)
    w, h = _tile(groups, importance, g, inside, count, per, 0, WIDTH, BLOCK_W, WEIGHTED)
    lo = tl.load(lo_in + g, mask=inside, other=0.0)
    hi = tl.load(hi_in + g, mask=inside, other=0.0)
    unit, integer, minimum_unit, minimum_integer, stays = _integers(
        lo, hi, top, low, high, SYM, SUPER, BLOCK_G
    )
    lowest = tl.zeros_like(unit)
    if SYM:
        lowest = lowest - (top + 1.0) * 0.5
    best, best_mine = integer, minimum_integer
    best_error = _error(
        w, h, groups, importance, g, inside, count, per, unit * integer,
        minimum_unit * minimum_integer, lowest, top, not SYM, WIDTH, BLOCK_W, WEIGHTED,
    )  # fmt: skip
    others = 5
    if SYM:
        others = 1
    for number in range(5 * others):
        # The one in the middle is the pair itself, whose error is not less than its own.
        by = (number // others - 2) * 1.0
        trial = tl.minimum(tl.maximum(integer + by, low), high)
        trial = tl.where((trial == 0) | stays, integer, trial)
        moved = minimum_integer
        if not SYM:
            other = (number % others - 2) * 1.0
            moved = tl.minimum(tl.maximum(minimum_integer + other, 0.0), high)
            moved = tl.where(stays, minimum_integer, moved)
        error = _error(
            w, h, groups, importance, g, inside, count, per, unit * trial,
            minimum_unit * moved, lowest, top, not SYM, WIDTH, BLOCK_W, WEIGHTED,
        )  # fmt: skip
        better = error < best_error
        best_error = tl.where(better, error, best_error)
        best = tl.where(better, trial, best)
        best_mine = tl.where(better, moved, best_mine)
    scale = unit * best
    if SYM:
        _store_range(lo_out, hi_out, g, inside, scale, -lowest, top, True)
    else:
        minimum = minimum_unit * best_mine
        tl.store(lo_out + g, -minimum, mask=inside)
        tl.store(hi_out + g, top * scale - minimum, mask=inside)
