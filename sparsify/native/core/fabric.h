// A fabric, compiled: its stages, and where each feature lies between them.
//
// Features between two stages lie in the order in which the next stage reads them, block by block,
// so that every permutation is the address of a store. A stage's inputs are numbered by *slots*
// (a, d, c), its outputs by slots (a, d, b): the order of its weight (a, d, b, c). The features of
// a graph have no blocks; their slots are the features.
#pragma once

#include "array.h"

namespace sparsify {

struct Stage {
  bool is_graph;
  int64_t blocks;   // a * d; of a graph: its outputs
  int64_t outputs;  // of a block, b; of a graph: 1
  int64_t inputs;   // of a block, c; of a graph: the degree
  int64_t in, out;  // features
  const int32_t *source;      // slot of an input -> slot of the previous stage's output
  const int32_t *target;      // slot of an output -> slot of the next stage's input;
                              // at the ends of a branch both give the slot itself
  const int32_t *neighbours;  // of a graph: input features, (out, degree)
  const int32_t *pairs;       // blocks that run together with the next stage's, see
                              // Compiler::pair; or null

  int64_t weights() const { return blocks * outputs * inputs; }
};

struct Branch {
  int64_t first, count;   // its stages
  int64_t in, out;        // features of the first step and of the last
  const int32_t *enter;   // feature of the input, wrapped -> slot of the first stage
  const int32_t *leave;   // feature of the output, not yet folded -> slot of the last stage
};

struct Fabric {
  int64_t in, out;
  int64_t widest;      // features at the widest place
  int64_t weights;     // in all
  int64_t narrowest;   // inputs of a block, where they are fewest
  int64_t most_stages; // in one branch
  Array<Branch> branches;
  Array<Stage> stages;
  Array<Array<int32_t> *> tables;

  Fabric() = default;
  ~Fabric();
};

// Compiles a description, see sparsify_create. Returns what is wrong, or null.
const char *compile(const int64_t *description, int64_t count, const int64_t *indices,
                    int64_t index_count, Fabric *fabric);

}  // namespace sparsify
