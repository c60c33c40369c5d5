// Stacked multi-layer perceptrons, forward and backward, and Adam with a moving target; float32.
//
// Compiled once for each instruction set (-DWIDTH=16 for AVX-512, 8 for AVX2); the loader picks one. Every entry of a
// product is one chain of fused multiply-adds in the order of k, whatever the number of rows, threads or members: a row's
// result does not depend on what it is computed together with. With -DBF16, and -DTILES where the processor has AMX, the
// products of wide layers are of numbers rounded to bf16, added up in float32, also in an order that is k's alone.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#ifdef BF16
#include <immintrin.h>
#endif

#include "vectors.h"

namespace {

// A block of the product is ROWS x (VECTORS * WIDTH): as many accumulators as the registers hold beside the operands.
constexpr int ROWS = WIDTH == 16 ? 8 : 6, VECTORS = 2, COLUMNS = VECTORS * WIDTH;
constexpr Index DEPTH = 256, HEIGHT = 256;  // of what is multiplied at a time, so that it stays in the caches

enum Activation { NONE = 0, RELU = 1, TANH = 2, SWISH = 3 };

inline Index room(Index floats) { return (floats + 15) / 16 * 16; }
inline Index padded(Index n) { return (n + COLUMNS - 1) / COLUMNS * COLUMNS; }

// Scratch memory of a thread, handed out piece by piece until the next task begins; it grows, and is never given back.
struct Scratch {
  std::vector<float*> blocks;  // the last one is handed out; what came before was too small, and goes with the task
  Index capacity = 0, used = 0;
  void begin() {
    for (used = 0; blocks.size() > 1; blocks.erase(blocks.begin())) free(blocks.front());
  }
  float* take(Index floats) {
    if (used + room(floats) > capacity) {
      used = 0, capacity = std::max(2 * capacity, room(floats));
      blocks.push_back(static_cast<float*>(aligned_alloc(64, capacity * sizeof(float))));
      if (!blocks.back()) abort();
    }
    used += room(floats);
    return blocks.back() + used - room(floats);
  }
};
thread_local Scratch scratch;

// What is done to a block of the product before it is stored.
struct Finish {
  const float* bias = nullptr;  // added, one a column
  bool add = false;             // added to what is there
  int activation = NONE;        // applied
  float* slope = nullptr;       // where the derivative of the activation is kept (SWISH), like the result
  int gate = NONE;              // multiplied by the derivative of this activation ...
  const float* at = nullptr;    // ... told by these values: the activations (RELU, TANH), or itself (SWISH)
  Index at_stride = 0;
};

inline Vec activated(Vec x, int activation, Vec& slope) {
  switch (activation) {
    case RELU: return x < 0.0f ? Vec{} : x;  // a NaN stays one
    case TANH: return hyperbolic_tangent(x);
    case SWISH: return swish(x, slope);
    default: return x;
  }
}
inline Vec gated(Vec x, Vec at, int gate) {
  switch (gate) {
    case RELU: return at <= 0.0f ? Vec{} : x;
    case TANH: return x * (1.0f - at * at);
    case SWISH: return x * at;
    default: return x;
  }
}

// Store x in row m and column `at`, of which n are left, of C, and do before what is wanted.
inline __attribute__((always_inline)) void finish_at(Vec x, Index m, Index at, Index n, float* C, Index stride,
                                                     const Finish& finish) {
  Vec slope{};
  if (finish.activation) x = activated(x, finish.activation, slope);
  if (finish.slope) store(finish.slope + m * stride + at, slope, n);
  if (finish.gate) x = gated(x, load(finish.at + m * finish.at_stride + at, n), finish.gate);
  store(C + m * stride + at, x, n);
}

// What is done to the part of a product that adds numbers [k, k + depth) of K, from row m on.
inline Finish part_of(const Finish& wanted, Index k, bool last, Index m, Index stride) {
  Finish finish = wanted;
  finish.add = k || wanted.add;
  if (k) finish.bias = nullptr;
  if (!last) finish.activation = finish.gate = NONE, finish.slope = nullptr;
  if (finish.slope) finish.slope += m * stride;
  if (finish.gate) finish.at += m * wanted.at_stride;
  return finish;
}

// Columns [column0, column0 + columns) of C = A (M x K, any strides) times a packed panel of B (K x COLUMNS).
template <int M, int V, bool WHOLE>
inline __attribute__((always_inline)) void block(Index K, const float* A, Index row, Index column, const float* B,
                                                 float* C, Index stride, Index column0, Index columns,
                                                 const Finish& finish) {
  const auto present = [columns](int j) { return WHOLE ? Index{WIDTH} : columns - j * WIDTH; };
  Vec c[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
    for (int j = 0; j < V; j++) {
      const Index at = column0 + j * WIDTH;
      if (finish.add) c[m][j] = load(C + m * stride + at, present(j));
      else c[m][j] = finish.bias ? load(finish.bias + at, present(j)) : Vec{};
    }
  for (Index k = 0; k < K; k++) {
    Vec b[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) b[j] = load(B + k * COLUMNS + j * WIDTH);
    const float* a = A + k * column;
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      Vec x = broadcast(a[m * row]);
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) c[m][j] += x * b[j];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
    for (int j = 0; j < V; j++) finish_at(c[m][j], m, column0 + j * WIDTH, present(j), C, stride, finish);
}

template <int M>
void block_of(int rows, Index K, const float* A, Index row, Index column, const float* B, float* C, Index stride,
              Index column0, Index columns, const Finish& finish) {
  if (rows == M) {
    if (columns == COLUMNS) return block<M, VECTORS, true>(K, A, row, column, B, C, stride, column0, columns, finish);
    if (columns > WIDTH) return block<M, VECTORS, false>(K, A, row, column, B, C, stride, column0, columns, finish);
    return block<M, 1, false>(K, A, row, column, B, C, stride, column0, columns, finish);
  }
  if constexpr (M > 1) block_of<M - 1>(rows, K, A, row, column, B, C, stride, column0, columns, finish);
}

// Columns [from, to) of C (M x N) = A (M x K; strides) B, packed: K rows a panel. Inlined it would run out of registers.
[[gnu::noinline]] void product(Index M, Index N, Index K, const float* A, Index row, Index column, const float* B,
                               float* C, Index stride, const Finish& wanted, Index from, Index to) {
  for (Index k = 0; k < K || k == 0; k += DEPTH) {
    const Index depth = std::min(DEPTH, K - k);
    for (Index m0 = 0; m0 < M; m0 += HEIGHT)
      for (Index n = from; n < to; n += COLUMNS)
        for (Index m = m0, end = std::min(M, m0 + HEIGHT); m < end; m += ROWS) {
          const int rows = static_cast<int>(std::min<Index>(ROWS, end - m));
          const Finish finish = part_of(wanted, k, k + depth >= K, m, stride);
          block_of<ROWS>(rows, depth, A + m * row + k * column, row, column, B + n * K + k * COLUMNS, C + m * stride,
                         stride, n, std::min<Index>(COLUMNS, N - n), finish);
        }
  }
}

// Columns [from, to) of B (K x N) as panels, zeros beyond N.
void pack(Index K, Index N, const float* B, Index stride, float* out, Index from, Index to) {
  for (Index n = from; n < to; n += COLUMNS) {
    const bool whole = n + COLUMNS <= N;
    for (Index k = 0; k < K; k++)
      for (Index j = n; j < n + COLUMNS; j += WIDTH)
        store(out + n * K + k * COLUMNS + j - n, whole ? load(B + k * stride + j) : load(B + k * stride + j, N - j));
  }
}

// The transpose of WIDTH x WIDTH numbers in registers: at each distance the halves of pairs of rows change places.
#if defined(__GNUC__) && !defined(__clang__)
inline __attribute__((always_inline)) void transpose(Vec row[WIDTH]) {
#pragma GCC unroll 4
  for (int d = 1; d < WIDTH; d *= 2) {
    Ints low, high;
    for (int j = 0; j < WIDTH; j++) low[j] = j & d ? WIDTH + j - d : j, high[j] = j & d ? WIDTH + j : j + d;
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++)
      if (!(i & d)) {
        const Vec a = row[i], b = row[i + d];
        row[i] = __builtin_shuffle(a, b, low), row[i + d] = __builtin_shuffle(a, b, high);
      }
  }
}
#else
inline void transpose(Vec row[WIDTH]) {
  for (int i = 0; i < WIDTH; i++)
    for (int j = 0; j < i; j++) {
      const float x = row[i][j];
      row[i][j] = row[j][i], row[j][i] = x;
    }
}
#endif
inline void transpose_square(const float* from, Index stride, float* to) {
  Vec row[WIDTH];
  for (int i = 0; i < WIDTH; i++) row[i] = load(from + i * stride);
  transpose(row);
  for (int i = 0; i < WIDTH; i++) store(to + i * COLUMNS, row[i]);
}

// Columns [from, to) of the transpose of B (N x K), packed; in squares, so that both sides stay in the cache.
void pack_transposed(Index K, Index N, const float* B, Index stride, float* out, Index from, Index to) {
  if (to > N) memset(out + (to - COLUMNS) * K, 0, COLUMNS * K * sizeof(float));
  for (Index n0 = from; n0 < std::min(N, to); n0 += WIDTH)
    for (Index k0 = 0; k0 < K; k0 += WIDTH) {
      float* square = out + n0 / COLUMNS * COLUMNS * K + k0 * COLUMNS + n0 % COLUMNS;
      const Index n1 = std::min(std::min(N, to), n0 + WIDTH), k1 = std::min(K, k0 + WIDTH);
      if (n1 - n0 == WIDTH && k1 - k0 == WIDTH) transpose_square(B + n0 * stride + k0, stride, square);
      else for (Index n = n0; n < n1; n++)
        for (Index k = k0; k < k1; k++) square[(k - k0) * COLUMNS + n - n0] = B[n * stride + k];
    }
}

// How the products of a layer are computed: what packs their second operand, as it lies or transposed, and what
// multiplies with it.
struct Arithmetic {
  decltype(&pack) packed, packed_transposed;
  decltype(&product) multiply;
};
constexpr Arithmetic FLOAT32{pack, pack_transposed, product};

#ifdef BF16
// Words are pairs of numbers in bf16, those of k and k + 1, in memory that is a float's. Products read 16 x 16 of them at
// a time, with zeros beyond K: A as rows of words, B as panels of COLUMNS words a pair.
inline Index words(Index K) { return (K + 31) / 32 * 16; }

// A matrix (rows x columns) as words, whose pairs lie in its rows, or ACROSS two of them; TURNED: as the transpose.
template <bool ACROSS, bool TURNED>
void to_words(Index rows, Index columns, const float* from, Index stride, float* to, Index to_stride) {
  constexpr Index down = ACROSS ? 2 : 1, right = ACROSS ? 1 : 2;
  typedef uint16_t Halves __attribute__((vector_size(64)));
  Halves in_turn;  // one of the first row, one of the second
  for (int k = 0; k < 32; k++) in_turn[k] = k / 2 + k % 2 * 16;
  for (Index i = 0; i * down < rows; i += 16)
    for (Index j = 0; j * right < columns; j += 16) {
      Vec word[16];
#pragma GCC unroll 16
      for (Index k = 0; k < 16; k++) {
        const Index r = (i + k) * down, c = j * right;
        const auto at = [=](Index r, Index c) { return load(from + r * stride + c, r < rows ? columns - c : 0); };
        const Vec low = at(r, c), high = ACROSS ? at(r + 1, c) : at(r, c + 16);
        const __m512i pair = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
        word[k] = (Vec)(ACROSS ? _mm512_permutexvar_epi16((__m512i)in_turn, pair) : pair);
      }
      if (TURNED) transpose(word);
      float* square = to + (TURNED ? j * to_stride + i : i * to_stride + j);
      for (Index k = 0; k < 16; k++) store(square + k * to_stride, word[k]);
    }
}

void pack_words(Index K, Index N, const float* B, Index stride, float* out, Index from, Index to) {
  for (Index n = from; n < to; n += COLUMNS)
    to_words<true, false>(K, std::min<Index>(COLUMNS, N - n), B + n, stride, out + n * words(K), COLUMNS);
}
void pack_words_transposed(Index K, Index N, const float* B, Index stride, float* out, Index from, Index to) {
  for (Index n = from; n < to; n += COLUMNS)
    to_words<false, true>(std::min<Index>(COLUMNS, N - n), K, B + n * stride, stride, out + n * words(K), COLUMNS);
}

// sums (16 x COLUMNS) = 16 rows of W words times a panel; of `rows` rows they are wanted.
#ifdef TILES
struct Tiles {  // of 16 rows of 64 bytes, eight of them, as long as this lives
  Tiles() {
    alignas(64) uint8_t shape[64] = {1};
    for (int i = 0; i < 8; i++) shape[16 + 2 * i] = 64, shape[48 + i] = 16;
    _tile_loadconfig(shape);
  }
  ~Tiles() { _tile_release(); }
};
inline void multiply_words(Index, Index W, const float* A, const float* B, float* sums) {
  asm volatile("" ::: "memory");  // compilers do not know that tiles are loaded from what was written
  _tile_zero(0);
  _tile_zero(1);
  for (Index k = 0; k < W; k += 16) {
    _tile_loadd(2, A + k, 4 * W);
    _tile_loadd(3, B + k * COLUMNS, 4 * COLUMNS);
    _tile_loadd(4, B + k * COLUMNS + 16, 4 * COLUMNS);
    _tile_dpbf16ps(0, 2, 3);
    _tile_dpbf16ps(1, 2, 4);
  }
  _tile_stored(0, sums, 4 * COLUMNS);
  _tile_stored(1, sums + 16, 4 * COLUMNS);
}
#else
struct Tiles {
  Tiles() {}
};
inline void multiply_words(Index rows, Index W, const float* A, const float* B, float* sums) {
  for (Index m0 = 0; m0 < std::min<Index>(rows, 16); m0 += 8) {
    __m512 c[8][2] = {};
    for (Index k = 0; k < W; k++) {
      const __m512bh b[2] = {(__m512bh)load(B + k * COLUMNS), (__m512bh)load(B + k * COLUMNS + 16)};
#pragma GCC unroll 8
      for (int m = 0; m < 8; m++) {
        const __m512bh a = (__m512bh)_mm512_set1_ps(A[(m0 + m) * W + k]);
        for (int j = 0; j < 2; j++) c[m][j] = _mm512_dpbf16_ps(c[m][j], a, b[j]);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < 8; m++)
      for (int j = 0; j < 2; j++) store(sums + (m0 + m) * COLUMNS + 16 * j, (Vec)c[m][j]);
  }
}
#endif

// As `product`, of words; A's rows, or its columns, are contiguous.
void product_of_words(Index M, Index N, Index K, const float* A, Index row, Index column, const float* B, float* C,
                      Index stride, const Finish& wanted, Index from, Index to) {
  alignas(64) static thread_local float a[HEIGHT * DEPTH / 2];
  alignas(64) float sums[16 * COLUMNS];
  const Tiles tiles;
  for (Index k = 0; k < K || k == 0; k += DEPTH)
    for (Index m0 = 0; m0 < M; m0 += HEIGHT) {
      const Index depth = std::min(DEPTH, K - k), height = std::min(HEIGHT, M - m0), W = words(depth);
      const Finish finish = part_of(wanted, k, k + depth >= K, m0, stride);
      const float* part = A + m0 * row + k * column;
      if (column == 1) to_words<false, false>(height, depth, part, row, a, W);
      else to_words<true, true>(depth, height, part, column, a, W);
      for (Index n = from; n < to; n += COLUMNS)
        for (Index m = 0; m < height; m++) {
          if (m % 16 == 0) multiply_words(height - m, W, a + m * W, B + n * words(K) + k / 2 * COLUMNS, sums);
          for (Index at = n; at < std::min(N, n + COLUMNS); at += WIDTH) {
            Vec x = load(sums + m % 16 * COLUMNS + at - n);
            if (finish.add) x += load(C + (m0 + m) * stride + at, N - at);
            else if (finish.bias) x += load(finish.bias + at, N - at);
            finish_at(x, m, at, N - at, C + m0 * stride, stride, finish);
          }
        }
    }
}

constexpr Arithmetic WORDS{pack_words, pack_words_transposed, product_of_words};
// Narrow layers, such as the first and the last, stay float32: they cost little, and see what the losses are made of.
inline const Arithmetic& arithmetic(Index in, Index width) { return std::min(in, width) < 32 ? FLOAT32 : WORDS; }
#else
inline const Arithmetic& arithmetic(Index, Index) { return FLOAT32; }
#endif

// Run task(i) for i < n on threads. A region within a region, even of one thread, would start its threads anew each time.
template <class Task> void share(Index n, int threads, Task task) {
  if (threads < 2) for (Index i = 0; i < n; i++) task(i);
  if (threads < 2) return;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < n; i++) task(i);
}

// Run task(from, to) over the panels of N columns, shared out among threads.
template <class Task> void over_panels(Index N, Index threads, Task task) {
  const Index panels = padded(N) / COLUMNS, parts = std::min(threads, panels);
  share(parts, parts, [&](Index t) { task(panels * t / parts * COLUMNS, panels * (t + 1) / parts * COLUMNS); });
}

void add_scaled(Index n, float p, const float* __restrict__ x, float* __restrict__ y) {
  for (Index i = 0; i < n; i++) y[i] += p * x[i];
}

inline float smaller(float a, float b) { return a < b || a != a ? a : b; }  // a NaN wins, as in PyTorch

void approach(Index n, float* __restrict__ target, const float* __restrict__ p, float tau) {
  for (Index i = 0; i < n; i++) target[i] += tau * (p[i] - target[i]);
}

}  // namespace

extern "C" {

// A stack of `members` networks of one shape. Tensors are contiguous with the member's axis first.
struct Stack {
  Index members, layers, activation;
  const Index* widths;           // (layers + 1), input first
  const float* const* weights;   // per layer (members, in, out)
  const float* const* biases;    // per layer (members, out)
};

// What this library was compiled from (flags.py): one left from before is known by it.
const char* kernel_key() { return KEY; }

// out (members, rows, last) of x; `member_stride` is 0 where all members see the same x. `hidden[l]` (members, rows,
// widths[l + 1]) keeps the activations of layer l, `slopes[l]` SWISH's derivative; null: nothing is kept.
void stack_forward(const Stack* s, Index rows, const float* x, Index member_stride, Index x_stride,
                   float* const* hidden, float* const* slopes, float* out, int threads) {
  const Index E = s->members, L = s->layers, widest = *std::max_element(s->widths + 1, s->widths + L + 1);
  const Index parts = threads > 1 && E % threads ? threads : 1;
  share(E * parts, threads, [&](Index task) {
    const Index e = task / parts, begin = rows * (task % parts) / parts, end = rows * (task % parts + 1) / parts;
    if (begin == end) return;
    scratch.begin();
    float* panels[64];
    for (Index l = 0; l < L; l++) {
      const Index in = s->widths[l], width = s->widths[l + 1];
      panels[l] = scratch.take(padded(width) * in);
      arithmetic(in, width).packed(in, width, s->weights[l] + e * in * width, width, panels[l], 0, padded(width));
    }
    float* spare[2] = {scratch.take(HEIGHT * widest), scratch.take(HEIGHT * widest)};
    for (Index r = begin; r < end; r += HEIGHT) {  // these rows go through all layers together
      const Index n = std::min(HEIGHT, end - r);
      const float* input = x + e * member_stride + r * x_stride;
      Index stride = x_stride;
      for (Index l = 0; l < L; l++) {
        const Index in = s->widths[l], width = s->widths[l + 1];
        const bool last = l + 1 == L;
        const Index place = (e * rows + r) * width;
        float* output = last ? out + place : hidden ? hidden[l] + place : spare[l % 2];
        Finish finish{s->biases[l] + e * width};
        if (!last) finish.activation = int(s->activation), finish.slope = slopes ? slopes[l] + place : nullptr;
        arithmetic(in, width)
            .multiply(n, width, in, input, stride, 1, panels[l], output, width, finish, 0, padded(width));
        input = output, stride = width;
      }
    }
  });
}

// Backward of `stack_forward` from `grad_out` (members, rows, last). Adds to `grad_weights` and `grad_biases` (null: not
// wanted); writes columns [first, last) of the input's gradient to `grad_x` (members, rows, last - first), null: not
// wanted. Rows whose gradient is zero are left out of the products.
void stack_backward(const Stack* s, Index rows, const float* x, Index member_stride, Index x_stride,
                    const float* const* hidden, const float* const* slopes, const float* grad_out,
                    float* const* grad_weights, float* const* grad_biases, float* grad_x, Index first,
                    Index last_column, int threads) {
  const Index E = s->members, L = s->layers, out = s->widths[L], columns = last_column - first;
  const int team = E % threads ? 1 : threads, inner = E % threads ? threads : 1;  // over members, or in each of them
  const Index widest = std::max(columns, *std::max_element(s->widths + 1, s->widths + L + 1));
  share(E, team, [&](Index e) {
    scratch.begin();
    const float* grad = grad_out + e * rows * out;
    const float *inputs[64], *gates[64];
    Index strides[64], n = rows, live = 0;
    inputs[0] = x + e * member_stride, strides[0] = x_stride;
    for (Index l = 1; l < L; l++) {
      inputs[l] = hidden[l - 1] + e * rows * s->widths[l], strides[l] = s->widths[l];
      gates[l] = slopes ? slopes[l - 1] + e * rows * s->widths[l] : inputs[l];
    }
    int32_t* kept = reinterpret_cast<int32_t*>(scratch.take(rows));
    for (Index i = 0; i < rows; i++) {
      const float* row = grad + i * out;
      if (std::any_of(row, row + out, [](float g) { return g != 0.0f; })) kept[live++] = static_cast<int32_t>(i);
    }
    const bool compressed = live * 4 < rows * 3;
    float *delta = scratch.take(rows * widest), *next = scratch.take(rows * widest);
    if (compressed) {
      n = live;
      const auto gathered = [&](const float* from, Index stride, Index width) {
        float* copy = scratch.take(n * width);
        for (Index i = 0; i < n; i++) memcpy(copy + i * width, from + kept[i] * stride, width * sizeof(float));
        return copy;
      };
      grad = gathered(grad, out, out);
      for (Index l = grad_weights ? 0 : 1; l < L; l++) {
        const Index width = s->widths[l];
        inputs[l] = gathered(inputs[l], strides[l], width), strides[l] = width;
        if (l) gates[l] = slopes ? gathered(gates[l], width, width) : inputs[l];
      }
    }
    float* panels = scratch.take(padded(widest) * std::max(widest, n));
    if (grad_x && compressed) memset(grad_x + e * rows * columns, 0, rows * columns * sizeof(float));
    for (Index l = L - 1; l >= 0; l--) {
      const Index in = s->widths[l], width = s->widths[l + 1];
      const float* W = s->weights[l] + e * in * width;
      const Arithmetic& by = arithmetic(in, width);
      if (grad_weights) {
        for (Index i = 0; i < n; i++) add_scaled(width, 1, grad + i * width, grad_biases[l] + e * width);
        float* G = grad_weights[l] + e * in * width;
        const Finish added{nullptr, true};
        over_panels(width, inner, [&](Index from, Index to) {
          by.packed(n, width, grad, width, panels, from, to);
          by.multiply(in, width, n, inputs[l], 1, strides[l], panels, G, width, added, from, to);
        });
      }
      if (l == 0 && !grad_x) break;
      Finish finish;
      if (l) finish.gate = static_cast<int>(s->activation), finish.at = gates[l], finish.at_stride = in;
      const Index wanted = l ? in : columns;
      float* target = l || compressed ? next : grad_x + e * rows * columns;
      if (width == 1 && l) {
        for (Index i = 0; i < n; i++)
          for (Index k = 0; k < in; k += WIDTH) {
            const Vec x = grad[i] * load(W + k, in - k), at = load(gates[l] + i * in + k, in - k);
            store(target + i * in + k, gated(x, at, finish.gate), in - k);
          }
      } else {
        over_panels(wanted, inner, [&](Index from, Index to) {
          by.packed_transposed(width, wanted, W + (l ? 0 : first * width), width, panels, from, to);
          by.multiply(n, wanted, width, grad, width, 1, panels, target, wanted, finish, from, to);
        });
      }
      if (l == 0 && compressed)
        for (Index i = 0; i < n; i++)
          memcpy(grad_x + (e * rows + kept[i]) * columns, target + i * columns, columns * sizeof(float));
      grad = target, next = delta, delta = target;
    }
  });
}

// One step of Adam, in place, after which the gradient is zero; then `target` (null: none) moves by `tau` towards the
// parameters.
void adam_step(Index n, float* p, float* mean, float* square, float* gradient, float lr, double beta1, double beta2,
               float epsilon, float decay, double steps, float* target, float tau, int threads) {
  const float rate = lr / static_cast<float>(1 - std::pow(beta1, steps));
  const float root = 1 / static_cast<float>(std::sqrt(1 - std::pow(beta2, steps)));
  const float move = float(1 - beta1), keep = float(beta2), take = float(1 - beta2);
  constexpr Index PIECE = 4096;  // of the tensors, in the first-level cache
  const Index pieces = (n + PIECE - 1) / PIECE;
  share(pieces, pieces > 4 ? threads : 1, [=](Index piece) {
    const Index begin = piece * PIECE, end = std::min(n, begin + PIECE);
#pragma GCC ivdep
    for (Index i = begin; i < end; i++) {
      const float g = gradient[i] + decay * p[i];
      mean[i] += move * (g - mean[i]);
      square[i] = keep * square[i] + take * g * g;
      p[i] -= rate * mean[i] / (std::sqrt(square[i]) * root + epsilon);
      gradient[i] = 0;
    }
    if (target) approach(end - begin, target + begin, p + begin, tau);
  });
}

// action (rows, actions) = tanh(u) and log_prob (rows) of a tanh-Gaussian with outputs (rows, 2 actions): the means, and
// what affine[0] * . + affine[1], clipped to [low, high], makes log standard deviations of; u = mean + spread, where
// spread (rows, actions) = std * noise.
void tanh_gaussian(Index rows, Index actions, const float* outputs, const float* affine, const float* noise, float low,
                   float high, float* action, float* log_prob, float* spread) {
  const Index count = rows * actions;
  scratch.begin();
  float *mean = scratch.take(count), *log_std = scratch.take(count), *term = scratch.take(count);
  for (Index i = 0; i < rows; i++)
    for (Index a = 0; a < actions; a++) {
      const Index k = i * actions + a;
      const float value = affine[0] * outputs[k + (i + 1) * actions] + affine[1];
      mean[k] = outputs[k + i * actions];
      log_std[k] = value < low ? low : value > high ? high : value;
    }
  for (Index k = 0; k < count; k += WIDTH) {
    const Vec z = load(noise + k, count - k), log = load(log_std + k, count - k), deviation = exponential(log) * z;
    const Vec u = load(mean + k, count - k) + deviation;
    store(spread + k, deviation, count - k);
    store(action + k, hyperbolic_tangent(u), count - k);
    store(term + k, -0.5f * z * z - log - 0.91893853320467274f - 2.0f * (0.69314718055994531f - u - softplus(-2.0f * u)));
  }
  for (Index i = 0; i < rows; i++) {
    log_prob[i] = 0;
    for (Index a = 0; a < actions; a++) log_prob[i] += term[i * actions + a];
  }
}

// Gradient by outputs, and by affine (2), of `tanh_gaussian`, from those by action and log_prob and what it returned.
void tanh_gaussian_backward(Index rows, Index actions, const float* outputs, const float* affine, float low, float high,
                            const float* action, const float* spread, const float* by_action, const float* by_log_prob,
                            float* by_outputs, float* by_affine) {
  double scale = 0, offset = 0;
  for (Index i = 0; i < rows; i++)
    for (Index a = 0; a < actions; a++) {
      const Index k = i * actions + a, of_mean = k + i * actions, of_std = of_mean + actions;
      const float by_u = by_action[k] * (1 - action[k] * action[k]) + 2 * by_log_prob[i] * action[k];
      const float value = affine[0] * outputs[of_std] + affine[1];
      const float by_log_std = value < low || value > high ? 0.0f : by_u * spread[k] - by_log_prob[i];
      by_outputs[of_mean] = by_u;
      by_outputs[of_std] = by_log_std * affine[0];
      scale += double(by_log_std) * outputs[of_std];
      offset += by_log_std;
    }
  by_affine[0] = static_cast<float>(scale), by_affine[1] = static_cast<float>(offset);
}

// y = r + gamma (1 - d) (min_j q_j - alpha log_prob) of rows; q (2, rows); no entropy where log_alpha is null.
void soft_target(Index rows, const float* q, const float* log_prob, const float* log_alpha, const float* reward,
                 Index reward_stride, const float* terminated, Index terminated_stride, float gamma, float* y) {
  const float alpha = log_alpha ? std::exp(*log_alpha) : 0.0f;
  for (Index i = 0; i < rows; i++) {
    const float value = smaller(q[i], q[rows + i]) - alpha * log_prob[i];
    y[i] = reward[i * reward_stride] + gamma * (1 - terminated[i * terminated_stride]) * value;
  }
}

// Of the loss sum_j mean_i (q_j - y)^2: its derivative by q (2, rows), and {loss, mean q}.
void squared_error(Index rows, const float* q, const float* y, float* by_q, float* metrics) {
  double loss = 0, mean = 0;
  for (Index k = 0; k < 2 * rows; k++) {
    const float error = q[k] - y[k % rows];
    by_q[k] = 2 * error / rows;
    loss += double(error) * error, mean += q[k];
  }
  metrics[0] = static_cast<float>(loss / rows), metrics[1] = static_cast<float>(mean / (2 * rows));
}

// Of mean_i (alpha log_prob - min_j q_j) and of -log_alpha mean_i (log_prob + target_entropy): derivatives by
// q (2, rows), log_prob (rows) and log_alpha, and {the first loss, alpha, the entropy}.
void actor_objective(Index rows, const float* q, const float* log_prob, const float* log_alpha, float target_entropy,
                     float* by_q, float* by_log_prob, float* by_log_alpha, float* metrics) {
  const float alpha = std::exp(*log_alpha), part = -1.0f / rows;
  double value = 0, sum = 0;
  for (Index i = 0; i < rows; i++) {
    const float a = q[i], b = q[rows + i];
    by_q[i] = a == b ? part / 2 : a < b ? part : 0.0f;
    by_q[rows + i] = a == b ? part / 2 : b < a ? part : 0.0f;
    by_log_prob[i] = alpha / rows;
    value += smaller(a, b), sum += log_prob[i];
  }
  metrics[0] = static_cast<float>((alpha * sum - value) / rows), metrics[1] = alpha;
  metrics[2] = static_cast<float>(-sum / rows);
  *by_log_alpha += metrics[2] - target_entropy;
}

}  // extern "C"
