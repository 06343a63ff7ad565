// What the kernels use of cuFFT, on the CPU: in double precision, with no regard for
// speed. As cuFFT's, transforms to real numbers may spoil their input; they
// do.
#include "cufft.hpp"

#include <cmath>
#include <complex>
#include <deque>
#include <vector>

namespace spicore::cuda {
namespace {

using Value = std::complex<double>;

struct Plan {
  std::vector<std::size_t> axes;
  int type = 0;
  std::size_t batch = 0;

  std::size_t size() const {
    std::size_t n = 1;
    for (const std::size_t axis : axes)
      n *= axis;
    return n;
  }
};

std::deque<Plan> plans;

// y [n] := the transform of x[0], x[step], ...; turns: of a multiple of n, `each` apart.
void transform_line(const Value *x, std::size_t step, Value *y, std::size_t n,
                    const std::vector<Value> &turns, std::size_t each) {
  std::size_t p = 2;
  while (p < n && n % p != 0)
    ++p;
  const std::size_t m = n / p;
  if (n == 1) {
    *y = *x;
    return;
  }
  for (std::size_t r = 0; r < p; ++r)
    transform_line(x + r * step, step * p, y + r * m, m, turns, each * p);
  std::vector<Value> parts(p);
  for (std::size_t k = 0; k < m; ++k) {
    for (std::size_t r = 0; r < p; ++r)
      parts[r] = y[r * m + k];
    for (std::size_t j = 0; j < p; ++j) {
      Value sum = 0.0;
      for (std::size_t r = 0; r < p; ++r)
        sum += parts[r] * turns[r * (k + j * m) % n * each];
      y[j * m + k] = sum;
    }
  }
}

// Along the axis whose elements are `step` apart.
void transform_axis(std::vector<Value> &values, std::size_t n, std::size_t step,
                    int direction) {
  std::vector<Value> turns(n), line(n);
  for (std::size_t k = 0; k < n; ++k)
    turns[k] = std::polar(1.0, direction * 6.283185307179586 * double(k) / double(n));
  for (std::size_t first = 0; first < values.size(); ++first) {
    if (first / step % n != 0)
      continue;
    transform_line(&values[first], step, line.data(), n, turns, 1);
    for (std::size_t k = 0; k < n; ++k)
      values[first + k * step] = line[k];
  }
}

void transform(const Plan &plan, std::vector<Value> &values, int direction) {
  std::size_t step = 1;
  for (std::size_t a = plan.axes.size(); a-- > 0;) {
    transform_axis(values, plan.axes[a], step, direction);
    step *= plan.axes[a];
  }
}

template <class T>
int complex_to_complex(int number, void *from, void *to, int direction) {
  const Plan &plan = plans[std::size_t(number)];
  const auto *x = static_cast<const std::complex<T> *>(from);
  auto *y = static_cast<std::complex<T> *>(to);
  const std::size_t n = plan.size();
  for (std::size_t b = 0; b < plan.batch; ++b) {
    std::vector<Value> values(x + b * n, x + (b + 1) * n);
    transform(plan, values, direction);
    for (std::size_t i = 0; i < n; ++i)
      y[b * n + i] = std::complex<T>(values[i]);
  }
  return 0;
}

template <class T> int real_to_complex(int number, void *from, void *to) {
  const Plan &plan = plans[std::size_t(number)];
  const T *x = static_cast<const T *>(from);
  auto *y = static_cast<std::complex<T> *>(to);
  const std::size_t n = plan.size(), last = plan.axes.back(), half = last / 2 + 1;
  for (std::size_t b = 0; b < plan.batch; ++b) {
    std::vector<Value> values(x + b * n, x + (b + 1) * n);
    transform(plan, values, kForward);
    for (std::size_t i = 0; i < n; ++i)
      if (i % last < half)
        *y++ = std::complex<T>(values[i]);
  }
  return 0;
}

// Fills the rest of the last axis up with mates and takes real parts.
template <class T> int complex_to_real(int number, void *from, void *to) {
  const Plan &plan = plans[std::size_t(number)];
  auto *x = static_cast<std::complex<T> *>(from);
  T *y = static_cast<T *>(to);
  const std::size_t n = plan.size(), last = plan.axes.back(), half = last / 2 + 1;
  for (std::size_t b = 0; b < plan.batch; ++b) {
    std::vector<Value> values(n);
    for (std::size_t i = 0; i < n; ++i) {
      std::size_t rest = i, at = 0, mate = 0, step = 1;
      for (std::size_t a = plan.axes.size(); a-- > 0;) {
        const std::size_t k = rest % plan.axes[a],
                          length = a + 1 == plan.axes.size() ? half : plan.axes[a];
        at += k * step;
        mate += (plan.axes[a] - k) % plan.axes[a] * step;
        step *= length;
        rest /= plan.axes[a];
      }
      const bool inside = i % last < half;
      const Value value(x[inside ? at : mate]);
      values[i] = inside ? value : std::conj(value);
    }
    transform(plan, values, kInverse);
    for (std::size_t i = 0; i < n; ++i)
      y[b * n + i] = T(values[i].real());
    const std::size_t n_half = n / last * half;
    std::fill(x, x + n_half, std::complex<T>(T(NAN), T(NAN)));
    x += n_half;
  }
  return 0;
}

int create(int *plan) {
  *plan = int(plans.size());
  plans.emplace_back();
  return 0;
}

int make_plan_many(int plan, int rank, long long *n, long long *, long long, long long,
                   long long *, long long, long long, int type, long long batch,
                   std::size_t *work_bytes) {
  plans[std::size_t(plan)] = {{n, n + rank}, type, std::size_t(batch)};
  *work_bytes = 256;
  return 0;
}

} // namespace

const Cufft &cufft() {
  static const Cufft functions = {create,
                                  [](int, int) { return 0; },
                                  make_plan_many,
                                  [](int, void *) { return 0; },
                                  [](int, cudaStream_t) { return 0; },
                                  real_to_complex<float>,
                                  complex_to_real<float>,
                                  complex_to_complex<float>,
                                  real_to_complex<double>,
                                  complex_to_real<double>,
                                  complex_to_complex<double>};
  return functions;
}

} // namespace spicore::cuda
