/* y = x W^T + b with W packed in 2 to 8 bits, never unpacked as a whole.
 *
 * Lanes are outputs: a vector of 32-bit lanes holds, in each lane, four neighbouring inputs (a
 * quad) of one output. LANES outputs make a row block, 8 quads (32 inputs) a step. The bits of a
 * step's codes lie in planes of 8, 4, 2 and 1 bits, each plane whole vectors, so that unpacking is
 * a shift and a mask and no product needs a sum across lanes.
 *
 * Activations become integers, by chunks of at most 128 inputs with a scale of their own: 16 bits
 * (as two bytes where the processor multiplies bytes), which is closer than bfloat16 by far, or 8.
 * Products and sums within a chunk are exact.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && !defined(PLAIN)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__) && !defined(PLAIN)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(PLAIN)
#define BYTES 1 /* the processor multiplies bytes */
#define DOT_BYTES(acc, w, x)                                                                       \
    ((ivec)_mm512_dpbusd_epi32((__m512i)(acc), (__m512i)(w), _mm512_set1_epi32(x)))
#elif defined(__AVXVNNI__) && LANES == 8 && !defined(PLAIN)
#define BYTES 1
#define DOT_BYTES(acc, w, x)                                                                       \
    ((ivec)_mm256_dpbusd_avx_epi32((__m256i)(acc), (__m256i)(w), _mm256_set1_epi32(x)))
#else
#define BYTES 0
#if defined(__AVX512BW__) && !defined(PLAIN)
#define MADD(w, x) ((ivec)_mm512_madd_epi16((__m512i)(w), _mm512_set1_epi32(x)))
#elif defined(__AVX2__) && !defined(PLAIN)
#define MADD(w, x) ((ivec)_mm256_madd_epi16((__m256i)(w), _mm256_set1_epi32(x)))
#endif
#endif

/* The processor has a matrix unit for bytes; whether the system lets us use it is asked once. */
#if defined(__AMX_INT8__) && defined(__linux__) && BYTES && LANES == 16 && !defined(NO_MATRIX)
#define MATRIX 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define MATRIX 0
#endif

#define STEP 32      /* inputs of a step */
#define QUADS 8      /* quads of a step */
#define PANEL 64     /* rows of x that go over the weight together */
#define TALL 16      /* rows of a tile of the matrix unit */
#define INLINE static inline __attribute__((always_inline))

typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float fvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));
typedef uint8_t bvec __attribute__((vector_size(LANES)));

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
    int64_t rows;                /* outputs */
    int64_t columns;             /* inputs of x */
    int64_t steps;               /* 32 inputs each, groups padded to whole ones */
    int64_t chunks;
    int64_t groups;
    int64_t bits;
    int64_t scale_kind;          /* FLOAT16 or BFLOAT16 */
    int64_t middle;              /* zero point of a symmetric layer */
    const uint8_t *codes;        /* [row blocks, steps, bits * 4 * LANES] */
    const uint16_t *scale;       /* [row blocks, groups, LANES] */
    const uint8_t *zero;         /* the same, or NULL for a symmetric layer */
    const int32_t *chunk_steps;  /* [chunks] */
    const int32_t *chunk_group;  /* [chunks] */
    const int32_t *source;       /* [steps * 32] column of x or -1; NULL where it is its own */
    const float *bias;           /* [rows] or NULL */
} Layer;

int64_t lanes(void) { return LANES; }
int64_t multiplies_bytes(void) { return BYTES; }

INLINE float widened(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint16_t narrowed(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* Finite 16-bit floats of either kind to float32, exactly, subnormal ones too. */
INLINE fvec scales_of(const uint16_t *at, int64_t kind)
{
    hvec halves;
    memcpy(&halves, at, sizeof halves);
    uvec bits = __builtin_convertvector(halves, uvec);
    if (kind == BFLOAT16)
        return (fvec)(bits << 16);
    fvec size = (fvec)((bits & 0x7fffu) << 13) * 0x1p112f;
    return (fvec)((uvec)size | ((bits & 0x8000u) << 16));
}

INLINE uvec load(const uint8_t *at)
{
    uvec found;
    memcpy(&found, at, sizeof found);
    return found;
}

/* Bits of a plane moved to where they belong in their bytes; others are masked away. */
INLINE uvec placed(uvec v, int shift, uint32_t mask)
{
    return (shift > 0 ? v >> shift : shift < 0 ? v << -shift : v) & (mask * 0x01010101u);
}

/* Codes of one quad, a byte each; bits and quad are constants wherever this is expanded.
 * A plane of n bits has n vectors of 8 / n quads each. The widest holds the lowest bits. */
INLINE uvec quad_of(const uint8_t *step, int bits, int quad)
{
    const int size = 4 * LANES;
    if (bits == 8)
        return load(step + quad * size);
    uvec codes = {0};
    int low = 0;
    if (bits & 4) {
        codes = placed(load(step + quad % 4 * size), quad / 4 * 4, 0x0f);
        low = 4;
    }
    if (bits & 2) {
        const uvec v = load(step + (low + quad % 2) * size);
        codes |= placed(v, quad / 2 * 2 - low, 0x03u << low);
        low += 2;
    }
    if (bits & 1)
        codes |= placed(load(step + low * size), quad - low, 0x01u << low);
    return codes;
}

/* Integers of one row of x. Bytes: all high ones, then all low ones; else quads as 0 2 1 3. */
typedef struct {
    int16_t *values;
    float *scale;   /* [chunks] */
    int32_t *sum;   /* [chunks] */
} Integers;

INLINE int32_t rounded(float value)
{
    const float magic = 12582912.0f;
    const float shifted = value + magic;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return bits - 0x4b400000;
}

static void to_integers(const Layer *layer, const void *x, int64_t kind, int wide, Integers out)
{
    const int64_t padded = layer->steps * STEP;
    const float top = wide ? 32639.0f : 127.0f;
    float buffer[4 * STEP];
    int64_t start = 0;
    for (int64_t c = 0; c < layer->chunks; c++) {
        const int64_t width = (int64_t)layer->chunk_steps[c] * STEP;
        if (layer->source) {
            for (int64_t i = 0; i < width; i++) {
                const int32_t from = layer->source[start + i];
                buffer[i] = from < 0 ? 0.0f
                            : kind == FLOAT32 ? ((const float *)x)[from]
                                              : widened(((const uint16_t *)x)[from]);
            }
        } else if (kind == FLOAT32) {
            memcpy(buffer, (const float *)x + start, (size_t)width * sizeof *buffer);
        } else {
            for (int64_t i = 0; i < width; i++)
                buffer[i] = widened(((const uint16_t *)x)[start + i]);
        }
        /* As integers sizes compare as they do as floats, and NaN is the largest. */
        uint32_t most = 0;
        for (int64_t i = 0; i < width; i++) {
            uint32_t bits;
            memcpy(&bits, &buffer[i], sizeof bits);
            bits &= 0x7fffffffu;
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, sizeof largest);
        const int finite = most < 0x7f800000u;
        const float factor = finite && largest > 1e-30f ? top / largest : 0.0f;
        out.scale[c] = finite ? largest / top : NAN;
        int32_t sum = 0;
#if BYTES
        int8_t *high = (int8_t *)out.values + start, *low = high + padded;
        if (wide) {
            for (int64_t i = 0; i < width; i++) {
                const int32_t q = rounded(finite ? buffer[i] * factor : 0.0f);
                sum += q;
                high[i] = (int8_t)((q + 128) >> 8);
                low[i] = (int8_t)(uint8_t)q;
            }
        } else {
            for (int64_t i = 0; i < width; i++) {
                const int32_t q = rounded(finite ? buffer[i] * factor : 0.0f);
                sum += q;
                high[i] = (int8_t)q;
            }
        }
#else
        int16_t *to = out.values + start;
        (void)padded;
        for (int64_t i = 0; i < width; i += 4) {
            int32_t q[4];
            for (int k = 0; k < 4; k++) {
                q[k] = rounded(finite ? buffer[i + k] * factor : 0.0f);
                sum += q[k];
            }
            to[i] = (int16_t)q[0];
            to[i + 1] = (int16_t)q[2];
            to[i + 2] = (int16_t)q[1];
            to[i + 3] = (int16_t)q[3];
        }
#endif
        out.sum[c] = sum;
        start += width;
    }
}

INLINE int32_t word(const void *at)
{
    int32_t found;
    memcpy(&found, at, sizeof found);
    return found;
}

#if !BYTES
/* Add the products of a quad: w has a code a byte, x four integers as 0 2 1 3. */
INLINE ivec dot(ivec acc, uvec w, const int16_t *x)
{
    const uvec even = w & 0x00ff00ffu, odd = (w >> 8) & 0x00ff00ffu;
#ifdef MADD
    return acc + MADD(even, word(x)) + MADD(odd, word(x + 2));
#else
    acc += (ivec)(even & 0xffffu) * (int32_t)x[0] + (ivec)(even >> 16) * (int32_t)x[1];
    return acc + (ivec)(odd & 0xffffu) * (int32_t)x[2] + (ivec)(odd >> 16) * (int32_t)x[3];
#endif
}
#endif

/* One row block times `count` rows of x; bits, wide, count are constants where expanded. */
INLINE void block_times(const Layer *layer, int64_t block, const Integers *x, float (*out)[LANES],
                        const int bits, const int wide, const int count)
{
    enum { MOST = 8 };
    (void)wide; /* unused where 16 bits are multiplied anyway */
    const int sets = count == 1 ? 4 : count == 2 ? 2 : 1;
    const int64_t step_bytes = (int64_t)bits * 4 * LANES, padded = layer->steps * STEP;
    const uint8_t *codes = layer->codes + block * layer->steps * step_bytes;
    const uint16_t *scales = layer->scale + block * layer->groups * LANES;
    const uint8_t *zeros = layer->zero ? layer->zero + block * layer->groups * LANES : 0;
    fvec total[MOST];
    for (int m = 0; m < count; m++)
        total[m] = (fvec){0};
    int64_t at = 0;
    for (int64_t c = 0; c < layer->chunks; c++) {
        ivec high[MOST], low[MOST];
        for (int m = 0; m < count * sets; m++)
            high[m] = low[m] = (ivec){0};
        for (int64_t s = layer->chunk_steps[c]; s; s--) {
#pragma GCC unroll 8
            for (int q = 0; q < QUADS; q++) {
                const uvec w = quad_of(codes, bits, q);
#pragma GCC unroll 8
                for (int m = 0; m < count; m++) {
                    const int a = m * sets + q % sets;
#if BYTES
                    const int8_t *bytes = (const int8_t *)x[m].values + at + 4 * q;
                    high[a] = DOT_BYTES(high[a], w, word(bytes));
                    if (wide)
                        low[a] = DOT_BYTES(low[a], w, word(bytes + padded));
#else
                    high[a] = dot(high[a], w, x[m].values + at + 4 * q);
#endif
                }
            }
            codes += step_bytes;
            at += STEP;
        }
        (void)padded;
        const int64_t g = layer->chunk_group[c];
        const fvec scale = scales_of(scales + g * LANES, layer->scale_kind);
        ivec zero = (ivec){0} + (int32_t)layer->middle;
        if (zeros) {
            bvec bytes;
            memcpy(&bytes, zeros + g * LANES, sizeof bytes);
            zero = __builtin_convertvector(bytes, ivec);
        }
        for (int m = 0; m < count; m++) {
            ivec sum = high[m * sets], rest = low[m * sets];
            for (int a = 1; a < sets; a++) {
                sum += high[m * sets + a];
                rest += low[m * sets + a];
            }
#if BYTES
            if (wide)
                sum = (ivec)((uvec)sum << 8) + rest;
#endif
            sum -= zero * x[m].sum[c];
            total[m] += __builtin_convertvector(sum, fvec) * (scale * x[m].scale[c]);
        }
    }
    for (int m = 0; m < count; m++)
        memcpy(out[m], &total[m], sizeof total[m]);
}

INLINE void block_rows(const Layer *layer, int64_t block, const Integers *x, float (*out)[LANES],
                       const int bits, const int wide, int64_t count)
{
    for (; count >= 8; count -= 8, x += 8, out += 8)
        block_times(layer, block, x, out, bits, wide, 8);
    if (count >= 4) {
        block_times(layer, block, x, out, bits, wide, 4);
        count -= 4, x += 4, out += 4;
    }
    if (count >= 2) {
        block_times(layer, block, x, out, bits, wide, 2);
        count -= 2, x += 2, out += 2;
    }
    if (count)
        block_times(layer, block, x, out, bits, wide, 1);
}

#if MATRIX
/* Tiles: 0 and 1 sums of high and low bytes, 2 and 3 x, 4 the weight, each 16 x 64 bytes; 5, 6, 7 x
 * and weight again for the half that is left of a chunk with an odd number of steps. */
static void configure(void)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.rows[t] = t == 7 ? 8 : 16;
        config.bytes[t] = t == 5 || t == 6 ? 32 : 64;
    }
    _tile_loadconfig(&config);
}

static int allowed(void)
{
    static int known; /* 0 not asked yet, 1 yes, -1 no; the answer is the same for all threads */
    if (!known)
        known = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0 ? 1 : -1;
    return known > 0;
}

/* As block_rows, by the matrix unit; rows of x lie stride bytes apart, in whole tiles. */
INLINE void block_tiles(const Layer *layer, int64_t block, const Integers *x, int64_t stride,
                        float (*out)[LANES], const int bits, const int wide, int64_t count)
{
    const int64_t step_bytes = (int64_t)bits * 4 * LANES, padded = layer->steps * STEP;
    const uint8_t *codes = layer->codes + block * layer->steps * step_bytes;
    const uint16_t *scales = layer->scale + block * layer->groups * LANES;
    const uint8_t *zeros = layer->zero ? layer->zero + block * layer->groups * LANES : 0;
    _Alignas(64) uvec weight[4 * QUADS];
    _Alignas(64) ivec high[TALL], low[TALL];
    int64_t at = 0;
    memset(out, 0, (size_t)count * sizeof *out);
    for (int64_t c = 0; c < layer->chunks; c++) {
        const int64_t steps = layer->chunk_steps[c], g = layer->chunk_group[c];
        for (int64_t s = 0; s < steps; s++, codes += step_bytes)
#pragma GCC unroll 8
            for (int q = 0; q < QUADS; q++)
                weight[s * QUADS + q] = quad_of(codes, bits, q);
        const fvec scale = scales_of(scales + g * LANES, layer->scale_kind);
        ivec zero = (ivec){0} + (int32_t)layer->middle;
        if (zeros) {
            bvec bytes;
            memcpy(&bytes, zeros + g * LANES, sizeof bytes);
            zero = __builtin_convertvector(bytes, ivec);
        }
        for (int64_t m = 0; m < count; m += TALL) {
            const int8_t *bytes = (const int8_t *)x[m].values + at;
            _tile_zero(0);
            _tile_zero(1);
            int64_t s = 0;
            for (; s + 2 <= steps; s += 2) {
                _tile_loadd(4, weight + s * QUADS, 64);
                _tile_loadd(2, bytes + s * STEP, stride);
                _tile_dpbsud(0, 2, 4);
                if (wide) {
                    _tile_loadd(3, bytes + padded + s * STEP, stride);
                    _tile_dpbsud(1, 3, 4);
                }
            }
            if (s < steps) {
                _tile_loadd(7, weight + s * QUADS, 64);
                _tile_loadd(5, bytes + s * STEP, stride);
                _tile_dpbsud(0, 5, 7);
                if (wide) {
                    _tile_loadd(6, bytes + padded + s * STEP, stride);
                    _tile_dpbsud(1, 6, 7);
                }
            }
            _tile_stored(0, high, 64);
            if (wide)
                _tile_stored(1, low, 64);
            const int64_t here = count - m < TALL ? count - m : TALL;
            for (int64_t i = 0; i < here; i++) {
                ivec sum = high[i];
                if (wide)
                    sum = (ivec)((uvec)sum << 8) + low[i];
                sum -= zero * x[m + i].sum[c];
                fvec total;
                memcpy(&total, out[m + i], sizeof total);
                total += __builtin_convertvector(sum, fvec) * (scale * x[m + i].scale[c]);
                memcpy(out[m + i], &total, sizeof total);
            }
        }
        at += steps * STEP;
    }
}
#endif

/* stride: bytes between rows of x where the matrix unit is to be used, else 0. */
#if MATRIX
#define ROWS(b, w)                                                                                 \
    (stride ? block_tiles(l, n, x, stride, out, b, w, count) : block_rows(l, n, x, out, b, w, count))
#else
#define ROWS(b, w) ((void)stride, block_rows(l, n, x, out, b, w, count))
#endif
#define EXPAND(b)                                                                                  \
    static __attribute__((noinline)) void block_##b(const Layer *l, int64_t n, const Integers *x,  \
                                                    int64_t stride, float (*out)[LANES], int wide, \
                                                    int64_t count)                                 \
    {                                                                                              \
        if (wide)                                                                                  \
            ROWS(b, 1);                                                                            \
        else                                                                                       \
            ROWS(b, 0);                                                                            \
    }
EXPAND(2)
EXPAND(3)
EXPAND(4)
EXPAND(5)
EXPAND(6)
EXPAND(7)
EXPAND(8)

typedef void (*BlockTimes)(const Layer *, int64_t, const Integers *, int64_t, float (*)[LANES], int,
                           int64_t);
static const BlockTimes BLOCK_TIMES[] = {block_2, block_3, block_4, block_5,
                                         block_6, block_7, block_8};

/* x and out: rows of layer->columns and layer->rows elements of the kind, FLOAT32 or BFLOAT16.
 * wide: integers of 16 bits, else 8. Returns 0, or 1 where memory is short. */
int64_t packed_linear(const Layer *layer, const void *x, int64_t kind, int64_t count, int64_t wide,
                      void *out)
{
    const int64_t padded = layer->steps * STEP, blocks = (layer->rows + LANES - 1) / LANES;
    const int64_t panel = count < PANEL ? (count + TALL - 1) / TALL * TALL : PANEL;
    const int64_t item = kind == FLOAT32 ? 4 : 2;
    const BlockTimes times = BLOCK_TIMES[layer->bits - 2];
    const int64_t per_row = (padded * 2 + layer->chunks * 8 + 63) / 64 * 64;
    if (!count)
        return 0;
    char *memory = aligned_alloc(64, (size_t)(panel * per_row));
    if (!memory)
        return 1;
    Integers rows[PANEL];
    for (int64_t m = 0; m < panel; m++) {
        char *own = memory + m * per_row;
        rows[m] = (Integers){(int16_t *)own, (float *)(own + padded * 2),
                             (int32_t *)(own + padded * 2 + layer->chunks * 4)};
    }
    for (int64_t first = 0; first < count; first += PANEL) {
        const int64_t here = count - first < PANEL ? count - first : PANEL;
#if MATRIX
        const int64_t stride = here > TALL / 2 && allowed() ? per_row : 0;
#else
        const int64_t stride = 0;
#endif
#pragma omp parallel if (layer->rows * padded * here > (1 << 16))
        {
#if MATRIX
            if (stride)
                configure();
#endif
#pragma omp for schedule(static)
            for (int64_t m = 0; m < here; m++)
                to_integers(layer, (const char *)x + (first + m) * layer->columns * item, kind,
                            (int)wide, rows[m]);
#pragma omp for schedule(static)
            for (int64_t n = 0; n < blocks; n++) {
                float sums[PANEL][LANES];
                times(layer, n, rows, stride, sums, (int)wide, here);
                const int64_t start = n * LANES;
                const int64_t width = layer->rows - start < LANES ? layer->rows - start : LANES;
                for (int64_t m = 0; m < here; m++) {
                    const int64_t to = (first + m) * layer->rows + start;
                    for (int64_t i = 0; i < width; i++) {
                        const float y = sums[m][i] + (layer->bias ? layer->bias[start + i] : 0.0f);
                        if (kind == FLOAT32)
                            ((float *)out)[to + i] = y;
                        else
                            ((uint16_t *)out)[to + i] = narrowed(y);
                    }
                }
            }
#if MATRIX
            if (stride)
                _tile_release();
#endif
        }
    }
    free(memory);
    return 0;
}

/* Write LANES weights of one input: a row of the tile is an input, so that nothing is transposed. */
INLINE void store(void *out, int64_t at, fvec w, int64_t kind)
{
    if (kind == FLOAT32) {
        memcpy((float *)out + at, &w, sizeof w);
    } else {
        const uvec bits = (uvec)w;
        const hvec halves =
            __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, hvec);
        memcpy((uint16_t *)out + at, &halves, sizeof halves);
    }
}

INLINE void unpack_block(const Layer *layer, int64_t block, int64_t width, void *out,
                         int64_t kind, const int bits)
{
    const int64_t step_bytes = (int64_t)bits * 4 * LANES;
    const uint8_t *codes = layer->codes + block * layer->steps * step_bytes;
    int64_t at = 0;
    for (int64_t c = 0; c < layer->chunks; c++) {
        const int64_t g = (block * layer->groups + layer->chunk_group[c]) * LANES;
        const fvec scale = scales_of(layer->scale + g, layer->scale_kind);
        ivec zero = (ivec){0} + (int32_t)layer->middle;
        if (layer->zero) {
            bvec bytes;
            memcpy(&bytes, layer->zero + g, sizeof bytes);
            zero = __builtin_convertvector(bytes, ivec);
        }
        for (int64_t s = layer->chunk_steps[c]; s; s--) {
#pragma GCC unroll 8
            for (int q = 0; q < QUADS; q++) {
                const uvec w = quad_of(codes, bits, q);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    const int64_t k = at + 4 * q + i;
                    const int64_t row = layer->source ? layer->source[k] : k;
                    const ivec level = (ivec)((w >> (8 * i)) & 0xffu) - zero;
                    if (row >= 0)
                        store(out, row * width, __builtin_convertvector(level, fvec) * scale, kind);
                }
            }
            codes += step_bytes;
            at += STEP;
        }
    }
}

/* Weights of some row blocks as a tile [columns, count * LANES], for products of many rows. */
void unpack_blocks(const Layer *layer, int64_t first, int64_t count, int64_t kind, void *out)
{
    const int64_t width = count * LANES, size = LANES * (kind == FLOAT32 ? 4 : 2);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < count; n++) {
        char *to = (char *)out + n * size;
        switch (layer->bits) {
        case 2: unpack_block(layer, first + n, width, to, kind, 2); break;
        case 3: unpack_block(layer, first + n, width, to, kind, 3); break;
        case 4: unpack_block(layer, first + n, width, to, kind, 4); break;
        case 5: unpack_block(layer, first + n, width, to, kind, 5); break;
        case 6: unpack_block(layer, first + n, width, to, kind, 6); break;
        case 7: unpack_block(layer, first + n, width, to, kind, 7); break;
        default: unpack_block(layer, first + n, width, to, kind, 8); break;
        }
    }
}
