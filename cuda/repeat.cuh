// The same launches many times, as a CUDA graph.
#pragma once

#include "launch.cuh"

namespace spicore::cuda {

#ifdef SPICORE_EMULATED

template <class Body>
void repeat(const Exec &exec, const char *, std::int64_t n, const Body &body) {
  for (std::int64_t i = 0; i < n; ++i)
    body(exec);
}

#else

// Owners of what a capture makes.
struct CaptureStream {
  cudaStream_t stream = nullptr;
  ~CaptureStream() {
    if (stream)
      cudaStreamDestroy(stream);
  }
};
struct Graph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ~Graph() { // one that still runs is freed when it ends
    if (executable)
      cudaGraphExecDestroy(executable);
    if (graph)
      cudaGraphDestroy(graph);
  }
};

// Calls body(exec) once, with a stream that records what it launches, and launches that n
// times on the caller's stream, which may be the default one that cannot record.
template <class Body>
void repeat(const Exec &exec, const char *operation, std::int64_t n, const Body &body) {
  CaptureStream capture;
  Graph graph;
  check(cudaStreamCreateWithFlags(&capture.stream, cudaStreamNonBlocking), operation);
  check(cudaStreamBeginCapture(capture.stream, cudaStreamCaptureModeRelaxed), operation);
  body(Exec{1, capture.stream});
  check(cudaStreamEndCapture(capture.stream, &graph.graph), operation);
  check(cudaGraphInstantiate(&graph.executable, graph.graph, 0), operation);
  for (std::int64_t i = 0; i < n; ++i)
    check(cudaGraphLaunch(graph.executable, stream(exec)), operation);
}

#endif

} // namespace spicore::cuda
