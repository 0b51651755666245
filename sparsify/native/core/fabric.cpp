#include "fabric.h"

#include "sparsify.h"

namespace sparsify {
namespace {

constexpr int64_t MOST_FEATURES = int64_t(1) << 24;
constexpr int64_t MOST_WEIGHTS = int64_t(1) << 40;
constexpr int64_t MOST_STEPS = 1 << 16;
constexpr int64_t MOST_TABLES = int64_t(1) << 27;  // features of all steps: bounds memory and time
constexpr int64_t STEP = 5;  // numbers of a step

const char *const NO_MEMORY = "There is not enough memory for the tables of this fabric.";

bool is_size(int64_t size, int64_t most) { return size >= 1 && size <= most; }

// The product of positive numbers, or -1 where it is above `most`.
int64_t product(int64_t first, int64_t second, int64_t most) {
  return first > 0 && second > 0 && first <= most / second ? first * second : -1;
}

class Compiler {
 public:
  Compiler(const int64_t *indices, int64_t index_count, Fabric *fabric)
      : indices_(indices), index_count_(index_count), fabric_(fabric) {}

  const char *branch(const int64_t *steps, int64_t count, Branch *branch) {
    const char *wrong = nullptr;
    branch->first = stages_;
    branch->count = 0;
    for (int64_t number = 0; number < count && !wrong; number++) {
      const int64_t *step = steps + number * STEP;
      wrong = step[0] == SPARSIFY_BLOCKS         ? blocks(step + 1, branch)
              : step[0] == SPARSIFY_TRANSPOSE    ? transpose(step + 1, branch)
              : step[0] == SPARSIFY_PERMUTATION  ? permutation(step + 1, branch)
              : step[0] == SPARSIFY_GRAPH        ? graph(step + 1, branch)
                                                 : "A step has an unknown kind.";
    }
    if (wrong) return wrong;
    if (!branch->count) return "A branch needs at least one step with weights.";
    return finish(branch);
  }

  int64_t stages() const { return stages_; }

 private:
  // Where the current features are: slots of the last stage, or features of the input.
  Array<int32_t> where_;
  int64_t width_ = 0;  // current features; 0 before the first step
  const int64_t *indices_;
  int64_t index_count_;
  Fabric *fabric_;
  int64_t stages_ = 0;
  int64_t tables_ = 0;
  int64_t size_ = 0;  // of all tables and of what steps move

  int32_t *table(int64_t size) {
    Array<int32_t> *made = static_cast<Array<int32_t> *>(calloc(1, sizeof(Array<int32_t>)));
    if (!made) return nullptr;
    fabric_->tables[tables_++] = made;
    return made->resize(size) ? made->data() : nullptr;
  }

  int32_t *inverse(const int32_t *map, int64_t size) {
    int32_t *made = table(size);
    for (int64_t i = 0; made && i < size; i++) made[map[i]] = int32_t(i);
    return made;
  }

  const char *widen(int64_t width, Branch *branch) {
    size_ += width;
    if (size_ > MOST_TABLES) return "The steps of a fabric have too many features in all.";
    if (width_) return width == width_ ? nullptr : "Steps of a branch must agree in width.";
    if (width < fabric_->in || width >= 2 * fabric_->in)
      return "The first step of a branch must have in_features to 2 * in_features - 1 inputs.";
    branch->in = width_ = width;
    if (!where_.resize(width)) return NO_MEMORY;
    for (int64_t i = 0; i < width; i++) where_[i] = int32_t(i);
    return nullptr;
  }

  const char *blocks(const int64_t *size, Branch *branch) {
    const int64_t a = size[0], b = size[1], c = size[2], d = size[3];
    const int64_t count = product(a, d, MOST_FEATURES);
    const int64_t in = product(count, c, MOST_FEATURES), out = product(count, b, MOST_FEATURES);
    if (count < 0 || in < 0 || out < 0 || product(in, b, MOST_WEIGHTS) < 0)
      return "The sizes of a step must be positive and not too large.";
    if (const char *wrong = widen(in, branch)) return wrong;
    int32_t *source = table(in);
    if (!source) return NO_MEMORY;
    for (int64_t i = 0; i < a; i++)
      for (int64_t j = 0; j < d; j++)
        for (int64_t k = 0; k < c; k++)
          source[(i * d + j) * c + k] = where_[(i * c + k) * d + j];
    Stage stage = {false, count, b, c, in, out, source, nullptr, nullptr, nullptr};
    if (const char *wrong = add(stage, branch)) return wrong;
    for (int64_t i = 0; i < a; i++)
      for (int64_t k = 0; k < b; k++)
        for (int64_t j = 0; j < d; j++)
          where_[(i * b + k) * d + j] = int32_t((i * d + j) * b + k);
    return nullptr;
  }

  const char *graph(const int64_t *size, Branch *branch) {
    const int64_t in = size[0], out = size[1], degree = size[2], start = size[3];
    if (!is_size(in, MOST_FEATURES) || !is_size(out, MOST_FEATURES) || !is_size(degree, in))
      return "The sizes of a graph must be positive and not too large, its degree at most its "
             "inputs.";
    const int64_t count = product(out, degree, MOST_WEIGHTS);
    if (const char *wrong = check(start, count, in)) return wrong;
    if (const char *wrong = widen(in, branch)) return wrong;
    int32_t *source = table(in), *neighbours = table(count);
    if (!source || !neighbours) return NO_MEMORY;
    for (int64_t i = 0; i < in; i++) source[i] = where_[i];
    for (int64_t i = 0; i < count; i++) neighbours[i] = int32_t(indices_[start + i]);
    Stage stage = {true, out, 1, degree, in, out, source, nullptr, neighbours, nullptr};
    if (const char *wrong = add(stage, branch)) return wrong;
    for (int64_t i = 0; i < out; i++) where_[i] = int32_t(i);
    return nullptr;
  }

  const char *transpose(const int64_t *size, Branch *branch) {
    const int64_t width = size[0], stride = size[1];
    if (!is_size(width, MOST_FEATURES) || !is_size(stride, width) || width % stride)
      return "The stride of a transposition must divide its size.";
    if (const char *wrong = widen(width, branch)) return wrong;
    Array<int32_t> moved;
    if (!moved.resize(width)) return NO_MEMORY;
    const int64_t rows = width / stride;
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < stride; j++) moved[j * rows + i] = where_[i * stride + j];
    where_.swap(moved);
    return nullptr;
  }

  const char *permutation(const int64_t *size, Branch *branch) {
    const int64_t width = size[0], start = size[1];
    if (!is_size(width, MOST_FEATURES)) return "A permutation must have a positive size.";
    if (const char *wrong = check(start, width, width)) return wrong;
    if (const char *wrong = widen(width, branch)) return wrong;
    Array<int32_t> moved;
    Array<char> seen;
    if (!moved.resize(width) || !seen.resize(width)) return NO_MEMORY;
    for (int64_t i = 0; i < width; i++) {
      const int64_t from = indices_[start + i];
      if (seen[from]) return "A permutation reads a feature twice.";
      seen[from] = 1;
      moved[i] = where_[from];
    }
    where_.swap(moved);
    return nullptr;
  }

  // Checks that there are `count` indices from `start`, all below `below`.
  const char *check(int64_t start, int64_t count, int64_t below) const {
    if (start < 0 || count < 0 || start > index_count_ || count > index_count_ - start)
      return "A step reads indices that are not there.";
    for (int64_t i = 0; i < count; i++)
      if (indices_[start + i] < 0 || indices_[start + i] >= below)
        return "An index is not a feature of its step.";
    return nullptr;
  }

  const char *add(const Stage &stage, Branch *branch) {
    if (branch->count) {
      Stage &before = fabric_->stages[stages_ - 1];
      before.target = inverse(stage.source, stage.in);
      if (!before.target) return NO_MEMORY;
    }
    fabric_->stages[stages_++] = stage;
    branch->count++;
    if (branch->count > fabric_->most_stages) fabric_->most_stages = branch->count;
    if (stage.in > fabric_->widest) fabric_->widest = stage.in;
    if (stage.out > fabric_->widest) fabric_->widest = stage.out;
    fabric_->weights += stage.weights();
    if (stage.inputs < fabric_->narrowest) fabric_->narrowest = stage.inputs;
    width_ = stage.out;
    return where_.resize(stage.out) ? nullptr : NO_MEMORY;
  }

  // Finds groups of R blocks of a stage whose outputs go to R blocks of the next and nowhere else,
  // for square blocks of R = 2 or 4 features: for each group its blocks in the order of the inputs
  // that they write, then the blocks that read them in the order of the outputs.
  const char *pair(Stage *first) {
    const Stage *second = first + 1;
    const int64_t r = first->inputs;
    if (first->is_graph || second->is_graph || (r != 2 && r != 4) || first->outputs != r ||
        second->inputs != r || second->outputs != r || first->blocks % r)
      return nullptr;
    Array<int32_t> group_of;  // of a block of the second stage, one more than its group
    if (!group_of.resize(second->blocks)) return NO_MEMORY;
    int32_t *groups = table(2 * first->blocks);
    if (!groups) return NO_MEMORY;
    int64_t count = 0;
    for (int64_t block = 0; block < first->blocks; block++) {
      const int32_t *target = first->target + block * r;
      int32_t &known = group_of[target[0] / r];
      const bool is_new = !known;
      if (is_new && count == first->blocks / r) return nullptr;
      if (is_new) known = int32_t(++count);
      int32_t *group = groups + (known - 1) * 2 * r;
      for (int64_t i = 0; i < r; i++) {
        if (target[i] % r != target[0] % r) return nullptr;
        if (is_new) group[r + i] = int32_t(target[i] / r);
        if (group[r + i] != target[i] / r) return nullptr;
      }
      group[target[0] % r] = int32_t(block);
    }
    first->pairs = groups;
    return nullptr;
  }

  const char *finish(Branch *branch) {
    branch->out = width_;
    if (width_ < fabric_->out || width_ >= 2 * fabric_->out)
      return "The last step of a branch must have out_features to 2 * out_features - 1 outputs.";
    Stage &first = fabric_->stages[branch->first], &last = fabric_->stages[stages_ - 1];
    branch->enter = inverse(first.source, branch->in);
    int32_t *leave = table(width_), *start = table(branch->in), *end = table(last.out);
    if (!branch->enter || !leave || !start || !end) return NO_MEMORY;
    for (int64_t i = 0; i < width_; i++) leave[i] = where_[i];
    for (int64_t i = 0; i < branch->in; i++) start[i] = int32_t(i);
    for (int64_t i = 0; i < last.out; i++) end[i] = int32_t(i);
    branch->leave = leave;
    for (int64_t i = branch->first; i + 1 < stages_; i++) {
      if (const char *wrong = pair(&fabric_->stages[i])) return wrong;
      if (fabric_->stages[i].pairs) i++;
    }
    first.source = start;
    last.target = end;
    width_ = 0;
    return nullptr;
  }
};

}  // namespace

Fabric::~Fabric() {
  for (int64_t i = 0; i < tables.size(); i++) {
    if (!tables[i]) continue;
    tables[i]->~Array();
    free(tables[i]);
  }
}

const char *compile(const int64_t *description, int64_t count, const int64_t *indices,
                    int64_t index_count, Fabric *fabric) {
  if (count < 3) return "A description needs in_features, out_features and the branches.";
  fabric->in = description[0];
  fabric->out = description[1];
  const int64_t branches = description[2];
  if (!is_size(fabric->in, MOST_FEATURES) || !is_size(fabric->out, MOST_FEATURES))
    return "A fabric needs in_features and out_features that are positive and not too large.";
  if (!is_size(branches, MOST_STEPS) || branches > count - 3)
    return "A fabric needs at least one branch, and the number of steps of each.";
  int64_t steps = 0;
  for (int64_t i = 0; i < branches; i++) {
    if (!is_size(description[3 + i], MOST_STEPS)) return "A branch needs at least one step.";
    steps += description[3 + i];
    if (steps > MOST_STEPS) return "A fabric has too many steps.";
  }
  if (count != 3 + branches + steps * STEP) return "A description needs five numbers per step.";
  if (index_count < 0 || (index_count && !indices)) return "There are no indices.";
  fabric->widest = fabric->in > fabric->out ? fabric->in : fabric->out;
  fabric->narrowest = fabric->widest;
  if (!fabric->branches.resize(branches) || !fabric->stages.resize(steps) ||
      !fabric->tables.resize(5 * steps + 4 * branches))
    return NO_MEMORY;
  Compiler compiler(indices, index_count, fabric);
  const int64_t *next = description + 3 + branches;
  for (int64_t i = 0; i < branches; i++) {
    if (const char *wrong = compiler.branch(next, description[3 + i], &fabric->branches[i]))
      return wrong;
    next += description[3 + i] * STEP;
  }
  fabric->stages.truncate(compiler.stages());  // steps without weights are no stages
  return nullptr;
}

}  // namespace sparsify
