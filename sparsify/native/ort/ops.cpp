// Our operators, as ONNX Runtime asks for them: names, types, shapes, kernels, registration.
//
// A file numbers its structures (`Fabric_v1_0`, `Fabric_v1_1`, ...) and a library registers its
// operators before it sees a file, so all names are registered, each for the same kernel, which
// reads the structure from the attributes of the node. See sparsify/export/onnx_ops.py.
#include <new>

#include <stdio.h>

#include "kernel.h"

namespace sparsify {
namespace {

const char *const DOMAIN = "ai.sparsify";
// Of each kind; those beyond run by the bodies in their file. Each name costs a session some 30 us
// when it is opened.
constexpr int NUMBERS = 64;
constexpr int TYPES[] = {SPARSIFY_FLOAT32, SPARSIFY_FLOAT16, SPARSIFY_FLOAT64, SPARSIFY_BFLOAT16};
constexpr int ANY_VERSION = 0x7fffffff;

int64_t calls = 0;

struct Op : OrtCustomOp {
  const OrtApi *ort;
  int type;
  bool is_indexed;
  char name[24];
};

const Op *of(const OrtCustomOp *op) { return static_cast<const Op *>(op); }

const char *ORT_CALL name(const OrtCustomOp *op) { return of(op)->name; }
const char *ORT_CALL provider(const OrtCustomOp *) { return nullptr; }

// Inputs: x, indices where there are any, then weights in any number.
size_t ORT_CALL input_count(const OrtCustomOp *op) { return of(op)->is_indexed ? 3 : 2; }
size_t ORT_CALL output_count(const OrtCustomOp *) { return 1; }
int ORT_CALL input_type(const OrtCustomOp *op, size_t index) {
  return of(op)->is_indexed && index == 1 ? ORT_INT64 : of(op)->type;
}
int ORT_CALL output_type(const OrtCustomOp *op, size_t) { return of(op)->type; }
int ORT_CALL input_kind(const OrtCustomOp *op, size_t index) {
  return index + 1 == input_count(op) ? ORT_VARIADIC : ORT_REQUIRED;
}
int ORT_CALL output_kind(const OrtCustomOp *, size_t) { return ORT_REQUIRED; }
int ORT_CALL memory(const OrtCustomOp *, size_t) { return 0; }
int ORT_CALL one(const OrtCustomOp *) { return 1; }
int ORT_CALL any_version(const OrtCustomOp *) { return ANY_VERSION; }

void ORT_CALL destroy(void *kernel) {
  if (!kernel) return;
  static_cast<Kernel *>(kernel)->~Kernel();
  free(kernel);
}

// The same error with the name of the node, which the runtime leaves out when it opens a session.
OrtStatus *named(const OrtApi *ort, const OrtCustomOp *op, const OrtKernelInfo *info,
                 OrtStatus *status) {
  char node[200] = "", message[400];
  size_t size = sizeof node;
  OrtStatus *unnamed = ort->KernelInfo_GetNodeName(info, node, &size);
  if (unnamed) ort->ReleaseStatus(unnamed);
  snprintf(message, sizeof message, "%s node '%s': %s", of(op)->name, unnamed ? "" : node,
           ort->GetErrorMessage(status));
  ort->ReleaseStatus(status);
  return ort->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

OrtStatus *ORT_CALL create(const OrtCustomOp *op, const OrtApi *ort, const OrtKernelInfo *info,
                           void **result) {
  void *memory = calloc(1, sizeof(Kernel));
  if (!memory) return ort->CreateStatus(ORT_FAIL, "Out of memory.");
  Kernel *kernel = new (memory) Kernel(ort, of(op)->type, of(op)->is_indexed);
  *result = kernel;
  OrtStatus *status = kernel->create(info);
  if (!status) return nullptr;
  destroy(kernel);
  *result = nullptr;
  return named(ort, op, info, status);
}

OrtStatus *ORT_CALL compute(void *kernel, OrtKernelContext *context) {
  __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
  return static_cast<Kernel *>(kernel)->compute(context);
}

// The functions of runtimes before 1.16, which never get here.
void *ORT_CALL create_or_null(const OrtCustomOp *op, const OrtApi *ort, const OrtKernelInfo *info) {
  void *kernel = nullptr;
  if (OrtStatus *status = create(op, ort, info, &kernel)) ort->ReleaseStatus(status);
  return kernel;
}

void ORT_CALL compute_silently(void *kernel, OrtKernelContext *context) { compute(kernel, context); }

OrtStatus *set_output(const OrtApi *ort, OrtShapeInferContext *context, const Tensor &y,
                      const char **names) {
  OrtShape *shape = nullptr;
  ORT_TRY(ort->CreateShape(&shape));
  OrtStatus *status = ort->SetTensorElementType(shape, y.type);
  if (!status) status = ort->SetDimensions(shape, y.dims, size_t(y.rank));
  if (!status) status = ort->SetSymbolicDimensions(shape, names, size_t(y.rank));
  if (!status) status = ort->ShapeInferContext_SetOutputTypeShape(context, 0, shape);
  ort->ReleaseShape(shape);
  return status;
}

// The shape of x with out_features as its last axis. Where something is not known, it stays so.
OrtStatus *infer(const Op *op, OrtShapeInferContext *context) {
  const OrtApi *ort = op->ort;
  const OrtOpAttr *attribute = nullptr;
  OrtShape *shape = nullptr;
  Tensor x;
  const char *names[MOST_AXES];
  int64_t out = 0;
  size_t size = 0;
  ORT_TRY(ort->ShapeInferContext_GetAttribute(context, "out_features", &attribute));
  ORT_TRY(ort->ReadOpAttr(attribute, ORT_ATTRIBUTE_INT, &out, sizeof out, &size));
  ORT_TRY(ort->ShapeInferContext_GetInputTypeShape(context, 0, &shape));
  ORT_TRY(read_shape(ort, shape, &x));
  if (!x.rank || out < 1) return nullptr;
  ORT_TRY(ort->GetSymbolicDimensions(shape, names, size_t(x.rank)));
  for (int64_t axis = 0; axis < x.rank - 1; axis++)
    if (x.dims[axis] < 0 && !*names[axis]) return nullptr;
  x.dims[x.rank - 1] = out;
  names[x.rank - 1] = "";
  return set_output(ort, context, x, names);
}

OrtStatus *ORT_CALL infer_shape(const OrtCustomOp *op, OrtShapeInferContext *context) {
  if (OrtStatus *status = infer(of(op), context)) of(op)->ort->ReleaseStatus(status);
  return nullptr;
}

const OrtCustomOp FUNCTIONS = {
    ORT_TABLE_VERSION, create_or_null, name,     provider,         input_type,
    input_count,       output_type,    output_count, compute_silently, destroy,
    input_kind,        output_kind,    memory,   one,              one,
    one,               one,            create,   compute,          infer_shape,
    one,               any_version,
};

// The operators as one runtime knows them; a process may have loaded several runtimes. They live as
// long as the process, for sessions hold on to them.
struct Registered {
  const OrtApi *ort;
  OrtCustomOpDomain *domain;
  Registered *next;
};

OrtStatus *add_ops(const OrtApi *ort, OrtCustomOpDomain *domain) {
  const int types = sizeof TYPES / sizeof *TYPES, count = 2 * NUMBERS * types;
  Op *ops = static_cast<Op *>(calloc(count, sizeof(Op)));
  if (!ops) return ort->CreateStatus(ORT_FAIL, "Out of memory.");
  for (int i = 0; i < count; i++) {
    Op &op = ops[i];
    static_cast<OrtCustomOp &>(op) = FUNCTIONS;
    op.ort = ort;
    op.type = TYPES[i % types];
    op.is_indexed = i >= count / 2;
    snprintf(op.name, sizeof op.name, "Fabric%s_v1_%d", op.is_indexed ? "Indexed" : "",
             i / types % NUMBERS);
    ORT_TRY(ort->CustomOpDomain_Add(domain, &op));
  }
  return nullptr;
}

OrtStatus *find_domain(const OrtApi *ort, OrtCustomOpDomain **domain) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static Registered *all = nullptr;
  pthread_mutex_lock(&mutex);
  Registered *found = all;
  while (found && found->ort != ort) found = found->next;
  OrtStatus *status = nullptr;
  if (!found) {
    *domain = nullptr;
    status = ort->CreateCustomOpDomain(DOMAIN, domain);
    if (!status) status = add_ops(ort, *domain);
    found = status ? nullptr : static_cast<Registered *>(calloc(1, sizeof(Registered)));
    if (found) {
      *found = {ort, *domain, all};
      all = found;
    } else if (!status) {
      status = ort->CreateStatus(ORT_FAIL, "Out of memory.");
    }
  }
  if (found) *domain = found->domain;
  pthread_mutex_unlock(&mutex);
  return status;
}

}  // namespace
}  // namespace sparsify

using namespace sparsify;

int64_t sparsify_ort_calls(void) { return __atomic_load_n(&calls, __ATOMIC_RELAXED); }

// ONNX Runtime looks for a function of this name in a library that it shall register. Doing it again
// for the same options changes nothing. A runtime before 1.17 has no such table, and gets no
// operators: it runs the bodies that are in the file.
extern "C" SPARSIFY_API OrtStatus *ORT_CALL RegisterCustomOps(OrtSessionOptions *options,
                                                              const OrtApiBase *base) {
  static const char *const MARK = "ai.sparsify.registered";
  const OrtApi *ort = base->GetApi(ORT_TABLE_VERSION);
  if (!ort) return nullptr;
  int is_registered = 0;
  OrtCustomOpDomain *domain = nullptr;
  ORT_TRY(ort->HasSessionConfigEntry(options, MARK, &is_registered));
  if (is_registered) return nullptr;
  ORT_TRY(find_domain(ort, &domain));
  ORT_TRY(ort->AddCustomOpDomain(options, domain));
  return ort->AddSessionConfigEntry(options, MARK, "1");
}
