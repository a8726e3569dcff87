// What a dependent kernel costs: in a graph and launched one by one, with and without programmatic
// dependent launch.
//
// A chain of kernels over two arrays: step s makes to[i] = 3 from[(i + 97) % n] + s, so that blocks
// need what other blocks of the step before wrote, and order shows in the result.
#pragma once

#include "common.cuh"

constexpr int kNodes = 400, kChainThreads = 128, kNeighbour = 97;

template <bool PROGRAMMATIC>
__global__ void __launch_bounds__(kChainThreads)
    chain_step(const uint32_t* from, uint32_t* to, uint32_t n, uint32_t step) {
    const uint32_t i = blockIdx.x * kChainThreads + threadIdx.x;
    const uint32_t further = i + kNeighbour, neighbour = further < n ? further : further - n;
    if (PROGRAMMATIC) {
        // The next kernel may start now; it reads nothing before its own wait, which lasts until
        // this one has ended and its writes are seen.
        asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
        asm volatile("griddepcontrol.wait;" ::: "memory");
    }
    to[i] = 3 * __ldcg(from + neighbour) + step;
}

inline std::vector<uint32_t> chain_start(uint32_t n, uint64_t seed) {
    Random random(seed);
    std::vector<uint32_t> values(n);
    for (uint32_t& value : values) value = static_cast<uint32_t>(random.next());
    return values;
}

// What the whole chain makes of `values`, on the host.
inline std::vector<uint32_t> chain_end(std::vector<uint32_t> values) {
    const size_t n = values.size();
    std::vector<uint32_t> next(n);
    for (uint32_t step = 0; step < kNodes; step++) {
        for (size_t i = 0; i < n; i++) next[i] = 3 * values[(i + kNeighbour) % n] + step;
        values.swap(next);
    }
    return values;
}

class Chain {
   public:
    Chain(int blocks, uint64_t seed)
        : blocks_(blocks), start_(chain_start(blocks * kChainThreads, seed)),
          end_(chain_end(start_)), first_(start_.size()), second_(start_.size()) {}

    // Launches all steps; the result is in the first array again, as their number is even.
    template <bool PROGRAMMATIC>
    void launch(cudaStream_t stream) {
        static_assert(kNodes % 2 == 0, "the chain ends where it began");
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(blocks_);
        config.blockDim = dim3(kChainThreads);
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = PROGRAMMATIC ? 1 : 0;
        const uint32_t n = static_cast<uint32_t>(start_.size());
        uint32_t *from = first_.get(), *to = second_.get();
        for (uint32_t step = 0; step < kNodes; step++) {
            const uint32_t* source = from;
            CHECK(cudaLaunchKernelEx(&config, chain_step<PROGRAMMATIC>, source, to, n, step));
            std::swap(from, to);
        }
    }

    // Runs the chain five times from its start and compares what it made.
    template <class Work>
    void check_result(cudaStream_t stream, const char* what, Work work) {
        for (int round = 0; round < 5; round++) {
            first_.upload(start_);
            second_.poison();
            CHECK(cudaDeviceSynchronize());
            work();
            CHECK(cudaStreamSynchronize(stream));
            require(first_.download() == end_,
                    std::string("the chain's result is wrong: ") + what + ", " +
                        std::to_string(blocks_) + " blocks, run " + std::to_string(round));
        }
    }

   private:
    int blocks_;
    std::vector<uint32_t> start_, end_;
    Buffer<uint32_t> first_, second_;
};

// An instantiated graph of a chain.
class ChainGraph {
   public:
    template <bool PROGRAMMATIC>
    static cudaGraphExec_t capture(Chain& chain, cudaStream_t stream) {
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        chain.launch<PROGRAMMATIC>(stream);
        cudaGraph_t graph = nullptr;
        CHECK(cudaStreamEndCapture(stream, &graph));
        size_t nodes = 0;
        CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
        require(nodes == kNodes, "captured " + std::to_string(nodes) + " nodes, expected " +
                                     std::to_string(kNodes));
        cudaGraphExec_t exec = nullptr;
        CHECK(cudaGraphInstantiate(&exec, graph, 0));
        CHECK(cudaGraphDestroy(graph));
        CHECK(cudaGraphUpload(exec, stream));
        CHECK(cudaStreamSynchronize(stream));
        return exec;
    }
    ChainGraph(cudaGraphExec_t exec) : exec_(exec) {}
    ChainGraph(const ChainGraph&) = delete;
    ChainGraph& operator=(const ChainGraph&) = delete;
    ~ChainGraph() { (void)cudaGraphExecDestroy(exec_); }
    void launch(cudaStream_t stream) const { CHECK(cudaGraphLaunch(exec_, stream)); }

   private:
    cudaGraphExec_t exec_;
};

// Microseconds a kernel, in a graph and launched one by one.
template <bool PROGRAMMATIC>
std::pair<double, double> time_chain(Chain& chain, cudaStream_t stream) {
    const char* kind = PROGRAMMATIC ? "programmatic" : "plain";
    // Modules load at the first launch, which must not fall into the capture.
    const auto one_by_one = [&] { chain.launch<PROGRAMMATIC>(stream); };
    chain.check_result(stream, (std::string(kind) + " launches").c_str(), one_by_one);
    const double launched = milliseconds(stream, 3, 15, one_by_one) * 1e3 / kNodes;
    const ChainGraph graph(ChainGraph::capture<PROGRAMMATIC>(chain, stream));
    const auto replay = [&] { graph.launch(stream); };
    chain.check_result(stream, (std::string(kind) + " graph").c_str(), replay);
    const double replayed = milliseconds(stream, 5, 31, replay) * 1e3 / kNodes;
    chain.check_result(stream, (std::string(kind) + " graph, after the timing").c_str(), replay);
    return {replayed, launched};
}

inline void run_graph(uint64_t seed, Object& all) {
    const Stream stream;
    all.number("nodes", kNodes);
    printf("graph: %d dependent kernels of %d threads a block, microseconds a kernel\n", kNodes,
           kChainThreads);
    printf("  %-8s %14s %20s %14s %24s\n", "blocks", "graph", "graph, programmatic", "launches",
           "launches, programmatic");
    for (const int blocks : {1, 132, 264}) {
        Chain chain(blocks, seed);
        const auto [graph, launches] = time_chain<false>(chain, stream);
        const auto [graph_early, launches_early] = time_chain<true>(chain, stream);
        printf("  %-8d %14.3f %20.3f %14.3f %24.3f\n", blocks, graph, graph_early, launches,
               launches_early);
        fflush(stdout);
        all.object("blocks_" + std::to_string(blocks),
                   Object()
                       .number("graph_us", graph)
                       .number("graph_programmatic_us", graph_early)
                       .number("launches_us", launches)
                       .number("launches_programmatic_us", launches_early));
    }
}
