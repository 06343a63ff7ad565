#include "spicore/correlate.hpp"
#include "operations.hpp"
#include "order_tensors.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Arithmetic;
using spicore::Correlation;
using spicore::Exec;
using spicore::bindings::checked;
using spicore::bindings::OrderTensors;
using spicore::bindings::require;
using spicore::bindings::Tensor;

namespace {

using Totals = Tensor<const float, 4>;

// (frames, views, totals, norm or None, fluence, beta, log_prior)
using TaskTensors = std::tuple<Tensor<const float, 3>, Tensor<const float, 4>, Totals,
                               std::optional<Totals>, Tensor<const float, 1>,
                               Tensor<const float, 1>, Tensor<const float, 1>>;

Arithmetic arithmetic_of(const std::string &name) {
  for (const auto &[known, arithmetic] :
       {std::pair{"float32", Arithmetic::float32}, std::pair{"bf16", Arithmetic::bf16},
        std::pair{"bf16_split", Arithmetic::bf16_split}})
    if (name == known)
      return arithmetic;
  throw std::invalid_argument("arithmetic must be float32, bf16 or bf16_split, got " +
                              name);
}

Correlation checked_task(const TaskTensors &tensors, const OrderTensors &order_tensors,
                         const std::string &arithmetic) {
  const auto &[frames, views, totals, norm, fluence, beta, log_prior] = tensors;
  Correlation task;
  task.orders = checked(order_tensors);
  task.arithmetic = arithmetic_of(arithmetic);
  task.n_frames = frames.shape[0];
  task.n_groups = views.shape[0];
  task.mirrors = totals.shape[1];
  task.stride = frames.shape[1];
  task.n_angles = totals.shape[2];
  require(frames.shape[2] == 2 && views.shape[2] == 2 &&
              views.shape[3] == spicore::kViewGroup && views.shape[1] == task.stride,
          "frames must be [D, C, 2] and views [G, C, 2, 16]");
  require(task.orders.n_coefficients() <= task.stride,
          "orders: more coefficients than frames and views hold");
  require(totals.shape[0] == task.n_groups && totals.shape[3] == spicore::kViewGroup &&
              (task.mirrors == 1 || task.mirrors == 2) &&
              task.n_angles % task.orders.n_angles == 0,
          "totals must be [G, 1 or 2, a multiple of the orders' angles, 16]");
  require(!norm || norm->shape == totals.shape, "norm must have the shape of totals");
  require(fluence.shape[0] == task.n_frames && beta.shape[0] == task.n_frames,
          "fluence and beta must be [D]");
  require(log_prior.shape[0] == task.n_groups * spicore::kViewGroup,
          "log_prior must be [16 G]");
  require(task.n_groups * spicore::kViewGroup * task.mirrors * task.n_angles <
              std::int64_t(1) << 32,
          "there must be fewer than 2^32 orientations");
  task.frames = frames.data;
  task.views = views.data;
  task.totals = totals.data;
  task.norm = norm ? norm->data : nullptr;
  task.fluence = fluence.data;
  task.beta = beta.data;
  task.log_prior = log_prior.data;
  return task;
}

// On a GPU a block has its scratch on chip.
void check_work(const Tensor<float, 2> &work, const Correlation &task, std::int64_t chunk,
                const Exec &exec) {
  if (spicore::bindings::kOnGpu)
    return;
  require(
      work.shape[0] >= exec.threads &&
          work.shape[1] == spicore::correlate_workspace(task.orders, task.mirrors,
                                                        task.arithmetic, chunk),
      "work must be [threads, correlate_workspace(orders, mirrors, arithmetic, chunk)]");
}

void screen(const TaskTensors &tensors, const OrderTensors &orders,
            const std::string &arithmetic, Tensor<float, 2> work, Tensor<float, 2> scores,
            Exec exec) {
  const Correlation task = checked_task(tensors, orders, arithmetic);
  check_work(work, task, spicore::kMatchChunk, exec);
  require(scores.shape[0] == task.n_frames && scores.shape[1] == task.n_groups,
          "scores must be [D, G]");
  SPICORE_CALL(screen, exec, task, work.data, scores.data);
}

// (orientation, frame, probability, begin)
using ListTensors = std::tuple<Tensor<std::uint32_t, 2>, Tensor<std::uint32_t, 2>,
                               Tensor<float, 2>, Tensor<std::int64_t, 2>>;
// (best, evidence, expected_score, information, expected_total)
using SumTensors = std::tuple<Tensor<std::int64_t, 1>, Tensor<double, 1>,
                              Tensor<double, 1>, Tensor<double, 1>, Tensor<double, 1>>;

void correlate(const TaskTensors &tensors, const OrderTensors &orders,
               const std::string &arithmetic,
               const std::optional<Tensor<const std::uint8_t, 2>> &keep, float cut,
               Tensor<float, 2> work, std::int64_t chunk, const ListTensors &lists,
               const SumTensors &sums, Exec exec) {
  const Correlation task = checked_task(tensors, orders, arithmetic);
  require(chunk >= 1, "chunk must be at least 1");
  check_work(work, task, chunk, exec);
  require(task.n_angles == task.orders.n_angles,
          "totals must have the angles of the orders");
  require(!keep || (keep->shape[0] == task.n_frames && keep->shape[1] == task.n_groups),
          "keep must be [D, G]");
  const std::int64_t n_chunks = (task.n_frames + chunk - 1) / chunk;
  const auto &[orientation, frame, probability, begin] = lists;
  const std::int64_t capacity = orientation.shape[1];
  for (const auto &shape : {orientation.shape, frame.shape, probability.shape})
    require(shape[0] == n_chunks && shape[1] == capacity,
            "terms must be three arrays [chunks, capacity]");
  require(capacity >= task.n_angles, "capacity must be at least the number of angles");
  require(begin.shape[0] == n_chunks && begin.shape[1] == task.n_groups + 1,
          "begin must be [chunks, G + 1]");
  const auto &[best, evidence, score, information, total] = sums;
  for (const std::int64_t n : {best.shape[0], evidence.shape[0], score.shape[0],
                               information.shape[0], total.shape[0]})
    require(n == task.n_frames, "sums must be [D]");
  const spicore::TermLists terms{chunk,      capacity,         orientation.data,
                                 frame.data, probability.data, begin.data};
  const spicore::PosteriorSums out{best.data, evidence.data, score.data, information.data,
                                   total.data};
  SPICORE_CALL(correlate, exec, task, keep ? keep->data : nullptr, cut, work.data, terms,
               out);
}

void match(const TaskTensors &tensors, const OrderTensors &orders,
           const std::string &arithmetic, Tensor<float, 2> work, Tensor<float, 1> best,
           Tensor<std::int64_t, 1> index, Tensor<float, 1> mean, Exec exec) {
  const Correlation task = checked_task(tensors, orders, arithmetic);
  check_work(work, task, spicore::kMatchChunk, exec);
  require(task.n_angles == task.orders.n_angles,
          "totals must have the angles of the orders");
  for (const std::int64_t n : {best.shape[0], index.shape[0], mean.shape[0]})
    require(n == task.n_frames, "best, index and mean must be [D]");
  SPICORE_CALL(match, exec, task, work.data, best.data, index.data, mean.data);
}

} // namespace

void spicore::bindings::add_correlate(py::module_ &m) {
#ifndef SPICORE_BACKEND_CUDA
  m.attr("match_chunk") = spicore::kMatchChunk;
  m.def("correlate_workspace", [](const OrderTensors &orders, std::int64_t mirrors,
                                  const std::string &arithmetic, std::int64_t chunk) {
    return spicore::correlate_workspace(checked(orders), mirrors,
                                        arithmetic_of(arithmetic), chunk);
  });
#endif
  m.def("screen", &screen);
  m.def("correlate", &correlate);
  m.def("match", &match);
}
