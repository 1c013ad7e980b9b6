/* Passes over whole rows that torch makes in many. See kernels.py. */

#include <math.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* AdamW in chosen rows: clkit/training/row_kernel.py. */
FOR_EACH_PROCESSOR
void step_rows(float *restrict weights, float *restrict first, float *restrict second, const int64_t *rows,
               const int64_t *places, const float *restrict gradients, const int64_t *given, const float *zeros,
               const float *decay1, const float *decay2, const float *sizes, const float *scales, const float *by,
               int64_t count, int64_t width) {
  const float rest1 = by[0], rest2 = by[1], shrink = by[2], eps = by[3];
  for (int64_t i = 0; i < count; i++) {
    float *w = weights + rows[i] * width, *m = first + places[i] * width, *v = second + places[i] * width;
    const float *g = given[i] < 0 ? zeros : gradients + given[i] * width;
    const float a = decay1[i], b = decay2[i], size = sizes[i], scale = scales[i];
    for (int64_t j = 0; j < width; j++) {
      const float mj = m[j] * a + g[j] * rest1;
      const float vj = v[j] * b + g[j] * g[j] * rest2;
      m[j] = mj;
      v[j] = vj;
      w[j] = w[j] * shrink - mj / (sqrtf(vj) * scale + eps) * size;
    }
  }
}

/* Sums of |h| over counted tokens, by unit: clkit/models/magnitudes.py. Sums of 4, of 256 and of all tokens keep the
   rounding small; a block of units stays in the nearest cache. */
FOR_EACH_PROCESSOR
void sum_magnitudes(const float *restrict outputs, const int64_t *restrict tokens, float *restrict sums,
                    int64_t count, int64_t units) {
  enum { UNITS = 512, TOKENS = 256 };
  float some[UNITS];
  for (int64_t from = 0; from < count; from += TOKENS) {
    const int64_t to = from + TOKENS < count ? from + TOKENS : count;
    for (int64_t unit = 0; unit < units; unit += UNITS) {
      const int64_t width = unit + UNITS < units ? UNITS : units - unit;
      for (int64_t j = 0; j < width; j++) some[j] = 0;
      int64_t i = from;
      for (; i + 4 <= to; i += 4) {
        const float *a = outputs + tokens[i] * units + unit, *b = outputs + tokens[i + 1] * units + unit;
        const float *c = outputs + tokens[i + 2] * units + unit, *d = outputs + tokens[i + 3] * units + unit;
        for (int64_t j = 0; j < width; j++) some[j] += (fabsf(a[j]) + fabsf(b[j])) + (fabsf(c[j]) + fabsf(d[j]));
      }
      for (; i < to; i++) {
        const float *a = outputs + tokens[i] * units + unit;
        for (int64_t j = 0; j < width; j++) some[j] += fabsf(a[j]);
      }
      for (int64_t j = 0; j < width; j++) sums[unit + j] += some[j];
    }
  }
}
