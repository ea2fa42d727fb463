/* Fake-quantize, its backward, the sign step, dequantizing with tuned scales and the KL divergence
 * of logits, in one pass over memory each.
 *
 * The arithmetic is that of autoround/core/rounding.py, operation by operation (division, not
 * multiplication by a reciprocal; rounding half to even), so levels equal those of plain torch
 * bit for bit. Built without -ffast-math and without contraction for that reason; only the sums
 * of a group may be added up in another order.
 *
 * A weight is count groups of width elements. 16-bit floats are bfloat16.
 */
#include <math.h>
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
void fake_quantize(const float *weight, const float *offset, const float *scale,
                   const float *zero, const float *minimum, float top, int64_t count,
                   int64_t width, float *out32, uint16_t *out16)
{
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < count; g++) {
        const float s = scale[g], low = -zero[g], high = top - zero[g];
        const float m = minimum ? minimum[g] : 0.0f;
        const float *w = weight + g * width, *v = offset + g * width;
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
void fake_quantize_backward(const float *weight, const float *offset, const float *scale,
                            const float *zero, const float *minimum, float top, int64_t count,
                            int64_t width, const float *grad32, const uint16_t *grad16,
                            float *grad_offset, float *sums)
{
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < count; g++) {
        const float s = scale[g], low = -zero[g], high = top - zero[g];
        const float m = minimum ? minimum[g] : 0.0f;
        const float *w = weight + g * width, *v = offset + g * width;
        float *out = grad_offset + g * width;
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
void sign_step(float *param, const float *grad, float lr, int64_t count)
{
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const float sign = (float)((grad[i] > 0.0f) - (grad[i] < 0.0f));
        param[i] -= lr * sign;
    }
}

/* Codes to weights, (c - zero) scale. One of out32 and out16 is NULL. */
void scaled_weight(const uint8_t *codes, const float *zero, const float *scale, int64_t count,
                   int64_t width, float *out32, uint16_t *out16)
{
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < count; g++) {
        const uint8_t *c = codes + g * width;
        const float z = zero[g], s = scale[g];
        if (out16) {
            uint16_t *out = out16 + g * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                out[i] = narrowed(((float)c[i] - z) * s);
        } else {
            float *out = out32 + g * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                out[i] = ((float)c[i] - z) * s;
        }
    }
}

/* Sums of G (c - zero), one a group. With votes, each code gets per_step votes against the sign of
 * G scale, and moves by a level where they go beyond half a level (127 votes).
 * One of grad32 and grad16 is NULL. */
void scale_gradient(uint8_t *codes, const float *zero, const float *scale, int32_t top,
                    int64_t count, int64_t width, const float *grad32, const uint16_t *grad16,
                    float *sums, int8_t *votes, int32_t per_step)
{
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < count; g++) {
        uint8_t *c = codes + g * width;
        const uint16_t *half = grad16 ? grad16 + g * width : 0;
        const float *full = grad32 ? grad32 + g * width : 0;
        const float z = zero[g];
        const int32_t vote = scale[g] > 0.0f ? per_step : -per_step;
        float sum = 0.0f;
        if (half) {
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; i++)
                sum += ((float)c[i] - z) * widened(half[i]);
        } else {
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; i++)
                sum += ((float)c[i] - z) * full[i];
        }
        sums[g] = sum;
        if (!votes)
            continue;
        int8_t *held = votes + g * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            const float up = half ? widened(half[i]) : full[i];
            int32_t total = held[i] - vote * ((up > 0.0f) - (up < 0.0f));
            const int32_t code = c[i];
            int32_t moved = code + (total > 127) - (total < -127);
            moved = moved < 0 ? 0 : moved > top ? top : moved;
            total -= (moved - code) * 254;
            total = total > 127 ? 127 : total < -127 ? -127 : total;
            c[i] = (uint8_t)moved;
            held[i] = (int8_t)total;
        }
    }
}

/* e^x for x <= 0, to about two units in the last place (Cephes' polynomial). */
static inline float exponential(float x)
{
    x = x > -87.0f ? x : -87.0f;
    const float n = rounded(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t power = ((int32_t)n + 127) * (1 << 23);
    float two;
    memcpy(&two, &power, sizeof two);
    return p * two;
}

#define DIVERGENCE(name, type, READ, WRITE)                                                   \
    void name(const type *student, const type *teacher, int64_t rows, int64_t columns,        \
              type *grad, double *losses)                                                     \
    {                                                                                         \
        _Pragma("omp parallel for schedule(static)") for (int64_t r = 0; r < rows; r++)       \
        {                                                                                     \
            const type *own = student + r * columns, *wanted = teacher + r * columns;         \
            type *out = grad + r * columns;                                                   \
            float own_top = -INFINITY, top = -INFINITY;                                       \
            _Pragma("omp simd reduction(max : own_top, top)") for (int64_t i = 0;             \
                                                                   i < columns; i++)          \
            {                                                                                 \
                own_top = READ(own[i]) > own_top ? READ(own[i]) : own_top;                    \
                top = READ(wanted[i]) > top ? READ(wanted[i]) : top;                          \
            }                                                                                 \
            double own_sum = 0.0, sum = 0.0, apart = 0.0;                                     \
            for (int64_t begin = 0; begin < columns; begin += 1024) {                         \
                const int64_t end = begin + 1024 < columns ? begin + 1024 : columns;          \
                float a = 0.0f, b = 0.0f, c = 0.0f;                                           \
                _Pragma("omp simd reduction(+ : a, b, c)") for (int64_t i = begin; i < end;   \
                                                                i++)                          \
                {                                                                             \
                    const float x = READ(own[i]) - own_top, y = READ(wanted[i]) - top;        \
                    const float weight = exponential(y);                                      \
                    a += exponential(x);                                                      \
                    b += weight;                                                              \
                    c += weight * (y - x);                                                    \
                }                                                                             \
                own_sum += a;                                                                 \
                sum += b;                                                                     \
                apart += c;                                                                   \
            }                                                                                 \
            losses[r] = apart / sum + log(own_sum) - log(sum);                                \
            const float own_part = (float)(1.0 / own_sum), part = (float)(1.0 / sum);         \
            _Pragma("omp simd") for (int64_t i = 0; i < columns; i++)                         \
            {                                                                                 \
                const float x = READ(own[i]) - own_top, y = READ(wanted[i]) - top;            \
                out[i] = WRITE(exponential(x) * own_part - exponential(y) * part);            \
            }                                                                                 \
        }                                                                                     \
    }

/* KL divergence of the student's logits from the teacher's, a row each, and its gradient for
 * the student's: the difference of the two probabilities. */
#define SAME(value) (value)
DIVERGENCE(divergence32, float, SAME, SAME)
DIVERGENCE(divergence16, uint16_t, widened, narrowed)
