/* All weights of a network from its hypernetwork's last layer, as fast as memory gives the heads:

       out[r] = bias[r] + sum of heads[r][c] * features[c] over c, and where bounded 5 tanh of that

   PyTorch's matrix-vector product does not fetch ahead; tanh and the widening of 16 bits are passes of their own there,
   while here they fill the time in which the next rows come from memory.

   The bytes are the same on every processor, from every compiler, and however rows are shared out among calls: each row
   is added up in eight lanes, in an order fixed below, and every operation is one that IEEE 754 defines. So this must
   be compiled with -ffp-contract=off and without -ffast-math. Needs GCC 12 or Clang.

   Neither heads nor features need be aligned. Nothing outside of the arrays is read. */

#include <stdint.h>
#include <string.h>

enum kind { FLOAT32, FLOAT16, BFLOAT16 }; /* of the heads; weight_kernel.py has the same numbers */
enum { LANES = 8, CACHE_LINE_BYTES = 64 };
enum { AHEAD_BYTES = 8192, PAGE_AHEAD_BYTES = 16384, AHEAD_ROWS = 256 }; /* found by trying */

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef floats widen(const char *); /* eight numbers, as they are stored */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8") /* keeps arrays of LANES in registers */
#define SHUFFLE __builtin_shufflevector

INLINE floats of_float32(const char *from) {
    floats values;
    memcpy(&values, from, sizeof values);
    return values;
}

INLINE ints of_uint16(const char *from) {
    shorts values;
    memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, ints);
}

INLINE floats of_bfloat16(const char *from) { return (floats)(of_uint16(from) << 16); }

INLINE floats of_float16(const char *from) {
    ints bits = of_uint16(from), magnitude = (bits & 0x7fff) << 13;
    floats scaled = (floats)magnitude * 0x1p112f;                  /* exponents count from 127 and no longer from 15 */
    ints infinite_or_nan = (magnitude >= 0x1f << 23) & 0xff << 23; /* the largest exponent stays the largest */
    return (floats)((ints)scaled | infinite_or_nan | (bits & 0x8000) << 16);
}

/* Sums of neighbours in a, then in b, twice and thrice over: eight vectors become the eight sums of their lanes. */
INLINE floats halved(floats a, floats b) {
    return SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
}

INLINE floats quartered(floats a, floats b, floats c, floats d) {
    a = halved(a, b), c = halved(c, d);
    return SHUFFLE(a, c, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
}

INLINE floats sums_of(const floats v[LANES]) {
    floats a = quartered(v[0], v[1], v[2], v[3]), b = quartered(v[4], v[5], v[6], v[7]);
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

INLINE floats clamped(floats x, float limit) {
    floats high = limit - (floats){0};
    ints above = x > high, below = x < -high; /* neither holds for NaN, which stays */
    return (floats)(((ints)x & ~(above | below)) | ((ints)high & above) | ((ints)-high & below));
}

/* The 13th convergent of Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))): up to 9, where tanh rounds
   to 1, it is nearer to tanh than a float can tell. All terms are positive, so rounding costs no more than a few ulp. */
INLINE floats tanh_of(floats x) {
    x = clamped(x, 9.02f);
    floats y = x * x;
    floats above = 2 / 6194475.f + y * (1 / 1930611375.f + y * (1 / 7905853580625.f));
    floats below = 2 / 382375.f + y * (8 / 526530375.f + y * (1 / 86877511875.f));
    above = 1 + y * (11 / 75.f + y * (3 / 575.f + y * (4 / 60375.f + y * above)));
    below = 1 + y * (12 / 25.f + y * (11 / 345.f + y * (8 / 12075.f + y * below)));
    return clamped(x * above / below, 1);
}

/* The products of `here` rows, at most eight, with the features, of which `rest` are those past the last whole vector.
   At the `end` of the heads nothing may be read beyond it. */
INLINE floats products(const char *heads, int64_t here, int end, const float *features, floats rest, int64_t count,
                       int64_t size, widen *widened) {
    int64_t whole = count / LANES * LANES, left = count - whole;
    ints is_left = (ints){0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)left; /* what lies beyond might be NaN */
    floats lanes[LANES];
    UNROLL for (int i = 0; i < LANES; i++) lanes[i] = (floats){0};
    for (int64_t c = 0; c < whole; c += LANES) {
        floats factor = of_float32((const char *)(features + c));
        UNROLL for (int i = 0; i < LANES; i++) {
            const char *row = heads + (end && i >= here ? here - 1 : i) * count * size;
            lanes[i] += widened(row + c * size) * factor;
        }
    }
    if (left) {
        UNROLL for (int i = 0; i < LANES; i++) {
            const char *row = heads + (end && i >= here ? here - 1 : i) * count * size;
            char copy[sizeof(floats)] = {0};
            if (end) memcpy(copy, row + whole * size, left * size);
            floats values = widened(end ? copy : row + whole * size);
            lanes[i] += (floats)((ints)values & is_left) * rest;
        }
    }
    return sums_of(lanes);
}

INLINE void make(const char *heads, const float *features, const float *bias, int64_t rows, int64_t count, int bounded,
                 float *out, int64_t size, widen *widened) {
    int64_t left = count % LANES, group = LANES * count * size;
    floats rest = {0};
    memcpy(&rest, features + count - left, left * sizeof(float));
    const char *past = heads + rows * count * size;
    for (; past - heads >= group + LANES * size; heads += group, bias += LANES, out += LANES, rows -= LANES) {
        for (int64_t line = 0; line < group; line += CACHE_LINE_BYTES) __builtin_prefetch(heads + AHEAD_BYTES + line);
        __builtin_prefetch(heads + PAGE_AHEAD_BYTES, 0, 2); /* so that the page's address is known by then */
        __builtin_prefetch(bias + AHEAD_ROWS);
        floats made = products(heads, LANES, 0, features, rest, count, size, widened) + of_float32((const char *)bias);
        if (bounded) made = 5 * tanh_of(made);
        memcpy(out, &made, sizeof made);
    }
    for (; rows > 0; heads += group, bias += LANES, out += LANES, rows -= LANES) {
        int64_t here = rows < LANES ? rows : LANES;
        floats made = {0};
        memcpy(&made, bias, here * sizeof(float));
        made = products(heads, here, 1, features, rest, count, size, widened) + made;
        if (bounded) made = 5 * tanh_of(made);
        memcpy(out, &made, here * sizeof(float));
    }
}

#define ARGUMENTS                                                                                                     \
    enum kind kind, const char *heads, const float *features, const float *bias, int64_t rows, int64_t count,         \
        int bounded, float *out
#define MAKE(half)                                                                                                    \
    if (kind == FLOAT32) make(heads, features, bias, rows, count, bounded, out, 4, of_float32);                       \
    if (kind == FLOAT16) make(heads, features, bias, rows, count, bounded, out, 2, half);                             \
    if (kind == BFLOAT16) make(heads, features, bias, rows, count, bounded, out, 2, of_bfloat16);

/* On any processor; exported so that a test can compare the two. */
void make_weights_anywhere(ARGUMENTS) { MAKE(of_float16) }

#ifdef __x86_64__
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,f16c"))) /* since 2013; without f16c, widening takes longer than memory */

AVX2 INLINE floats of_float16_at_once(const char *from) {
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

AVX2 static void make_weights_by_avx2(ARGUMENTS) { MAKE(of_float16_at_once) }

/* Every processor with AVX2 has F16C, which not every compiler can ask for. */
void make_weights(ARGUMENTS) {
    if (__builtin_cpu_supports("avx2")) make_weights_by_avx2(kind, heads, features, bias, rows, count, bounded, out);
    else make_weights_anywhere(kind, heads, features, bias, rows, count, bounded, out);
}
#else
void make_weights(ARGUMENTS) { make_weights_anywhere(kind, heads, features, bias, rows, count, bounded, out); }
#endif
