/* Fake-quantize, its backward and the sign step in one pass over memory each.
 *
 * The arithmetic is that of autoround/core/rounding.py, operation by operation (division, not
 * multiplication by a reciprocal; rounding half to even), so levels equal those of plain torch
 * bit for bit. Built without -ffast-math and without contraction for that reason; only the sums
 * of a group may be added up in another order.
 *
 * A weight is count groups of width elements. 16-bit floats are bfloat16.
 */
#include <stdint.h>
#include <string.h>

static inline float widened(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round to nearest even; no NaN comes here. */
static inline uint16_t narrowed(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* Levels far outside the grid are clamped anyway; within 2^22 the sum rounds half to even. */
static inline float rounded(float value)
{
    const float magic = 12582912.0f;
    value = value > -2097152.0f ? value : -2097152.0f;
    value = value < 2097152.0f ? value : 2097152.0f;
    return (value + magic) - magic;
}

static inline float clamped(float level, float low, float high)
{
    level = level > low ? level : low;
    return level < high ? level : high;
}

/* minimum: of each group, or NULL. One of out32 and out16 is NULL. */
void fake_quantize(const float *weight, const float *value, const float *scale,
                   const float *zero, const float *minimum, float top, int64_t count,
                   int64_t width, float *out32, uint16_t *out16)
{
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < count; g++) {
        const float s = scale[g], low = -zero[g], high = top - zero[g];
        const float m = minimum ? minimum[g] : 0.0f;
        const float *w = weight + g * width, *v = value + g * width;
        if (out16) {
            uint16_t *out = out16 + g * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                const float level = clamped(rounded(v[i] + (w[i] + m) / s), low, high);
                out[i] = narrowed(level * s - m);
            }
        } else {
            float *out = out32 + g * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                const float level = clamped(rounded(v[i] + (w[i] + m) / s), low, high);
                out[i] = level * s - m;
            }
        }
    }
}

/* Gradient of the offsets, and three sums a group: G c, G inside (W + m), G outside.
 * One of grad32 and grad16 is NULL. */
void fake_quantize_backward(const float *weight, const float *value, const float *scale,
                            const float *zero, const float *minimum, float top, int64_t count,
                            int64_t width, const float *grad32, const uint16_t *grad16,
                            float *grad_value, float *sums)
{
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < count; g++) {
        const float s = scale[g], low = -zero[g], high = top - zero[g];
        const float m = minimum ? minimum[g] : 0.0f;
        const float *w = weight + g * width, *v = value + g * width;
        float *out = grad_value + g * width;
        float codes = 0.0f, inner = 0.0f, outer = 0.0f;
        const float *g32 = grad32 ? grad32 + g * width : 0;
        const uint16_t *g16 = grad16 ? grad16 + g * width : 0;
        if (g16) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                out[i] = widened(g16[i]);
        } else {
            memcpy(out, g32, (size_t)width * sizeof *out);
        }
#pragma omp simd reduction(+ : codes, inner, outer)
        for (int64_t i = 0; i < width; i++) {
            const float up = out[i], shifted = w[i] + m;
            const float level = rounded(v[i] + shifted / s);
            const float code = clamped(level, low, high);
            const float passed = code == level ? up : 0.0f;
            codes += code * up;
            inner += passed * shifted;
            outer += up - passed;
            out[i] = passed * s;
        }
        sums[g] = codes;
        sums[count + g] = inner;
        sums[2 * count + g] = outer;
    }
}

/* Move against the sign of the gradient. */
void sign_step(float *param, const float *grad, float rate, int64_t count)
{
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const float sign = (float)((grad[i] > 0.0f) - (grad[i] < 0.0f));
        param[i] -= rate * sign;
    }
}
