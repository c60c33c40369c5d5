// SGD of the networks of neural bandits; float32. Compiled into one library with kernels.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Index = int64_t;

float dot(Index n, const float* a, const float* b) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

double squared_distance(Index n, const float* a, const float* b) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

void add_scaled(Index n, float p, const float* __restrict__ x, float* __restrict__ y) {
  for (Index i = 0; i < n; i++) y[i] += p * x[i];
}

void add_two(Index n, float p, const float* x, float q, const float* z, float* __restrict__ y) {
  for (Index i = 0; i < n; i++) y[i] = y[i] + p * x[i] + q * z[i];
}

// y = p x where `at` is positive, else 0; y may be x or `at`.
void rectify(Index n, float p, const float* x, const float* at, float* y) {
#pragma GCC ivdep
  for (Index i = 0; i < n; i++) y[i] = at[i] > 0.0f ? p * x[i] : 0.0f;
}

void approach(Index n, float* __restrict__ target, const float* __restrict__ p, float tau) {
  for (Index i = 0; i < n; i++) target[i] += tau * (p[i] - target[i]);
}

// A loss of f: its value, its derivative, and the two derivatives of the mean that the loss takes for a target.
struct Loss {
  double value, slope, bend, twist;
};
inline Loss square_loss(double f, double y) { return {0.5 * (f - y) * (f - y), f - y, 1, 0}; }
inline Loss log_loss(double f, double y) {
  const double p = 1 / (1 + std::exp(-f)), bend = p * (1 - p);
  return {std::max(f, 0.0) + std::log1p(std::exp(-std::abs(f))) - y * f, p - y, bend, bend * (1 - 2 * p)};
}

}  // namespace

extern "C" {

// SGD of two-layer ReLU networks without biases, f = c1 v'relu(c0 W_a'x), one of each of `n` replicates: `updates` steps
// on minibatches (n, updates, batch) of indices into a history of contexts (n, length, d), arms (n, length; null: all use
// block 0) and targets (n, length). Every step is on the mean of the squared loss with its factor 1/2, or of the log loss
// where `kl`, plus strength/2 |theta - theta_0|^2, which the log loss weighs with sigma'(f). W (n, blocks, d, m),
// v (n, m). Returns the loss (n) before the first step.
void bandit_sgd(Index n, Index blocks, Index d, Index m, Index length, Index updates, Index batch, const float* contexts,
                const Index* arms, const float* targets, const Index* index, float* W, const float* W0, float* v,
                const float* v0, float rate, float c0, float c1, float strength, int kl, float* losses, int threads) {
  struct Sample {
    const float* x;
    float *weights, target, slope;  // of the first layer, those of its arm; dloss/df
    Index count, *at;               // of entries of x that are not 0, and where they are
  };
  const Index weights = blocks * d * m;
#pragma omp parallel for num_threads(n > 1 ? threads : 1) schedule(static)
  for (Index r = 0; r < n; r++) {
    float *w = W + r * weights, *u = v + r * m;
    const float *w0 = W0 + r * weights, *u0 = v0 + r * m;
    std::vector<Sample> samples(batch);
    std::vector<Index> entries(batch * d);
    std::vector<float> kept(batch * m), error(m);
    float* hidden = kept.data();
    for (Index step = 0; step < updates; step++) {
      for (Index b = 0; b < batch; b++) {
        const Index i = r * length + index[(r * updates + step) * batch + b];
        samples[b] = {contexts + i * d, w + (arms ? arms[i] : 0) * d * m, targets[i], 0, 0, nullptr};
      }
      // Samples of an arm together: its weights stay in the first-level cache.
      std::stable_sort(samples.begin(), samples.end(), [](auto& a, auto& b) { return a.weights < b.weights; });
      double distance = 0, loss = 0, curvature = 0;
      if (kl && strength != 0.0f) distance = squared_distance(weights, w, w0) + squared_distance(m, u, u0);
      for (Index b = 0; b < batch; b++) {
        Sample& s = samples[b];
        float* h = hidden + b * m;
        s.at = &entries[b * d];
        for (Index i = 0; i < d; i++) s.at[s.count] = i, s.count += s.x[i] != 0.0f;  // no branch: none is predictable
        const auto row = [&](Index j) { return s.weights + s.at[j] * m; };
        const Index pairs = s.count / 2 * 2;  // two rows at once: half the loads and stores of what they are added to
        memset(h, 0, m * sizeof(float));
        for (Index j = 0; j < pairs; j += 2) add_two(m, s.x[s.at[j]], row(j), s.x[s.at[j + 1]], row(j + 1), h);
        if (pairs < s.count) add_scaled(m, s.x[s.at[pairs]], row(pairs), h);
        rectify(m, c0, h, h, h);
        const Loss at = (kl ? log_loss : square_loss)(c1 * dot(m, h, u), s.target);
        loss += at.value, curvature += at.bend;
        s.slope = static_cast<float>(at.slope + 0.5 * strength * distance * at.twist);
      }
      if (step == 0) losses[r] = static_cast<float>(loss / batch);
      const float pull = static_cast<float>(rate * strength * curvature / batch);
      if (pull != 0.0f) approach(weights, w, w0, pull);
      for (Index b = 0; b < batch; b++) {
        Sample& s = samples[b];
        s.slope *= -rate / batch * c1;
        rectify(m, s.slope * c0, u, hidden + b * m, error.data());
        for (Index j = 0; j < s.count; j++) add_scaled(m, s.x[s.at[j]], error.data(), s.weights + s.at[j] * m);
      }
      if (pull != 0.0f) approach(m, u, u0, pull);  // last: the gradient is at the weights before the step
      for (Index b = 0; b < batch; b++) add_scaled(m, samples[b].slope, hidden + b * m, u);
    }
  }
}

}  // extern "C"
