/* The part of ONNX Runtime's C interface that this project uses.
 *
 * The interface is a table of functions that only ever grows at its end, so a slot keeps its
 * meaning in every later version. Only what is used has a name here; SKIP says which slots lie
 * between. The table is pinned at version 17, the first with parallel loops and shape inference
 * for custom operators, so one library serves 1.17 and everything after it.
 */
#ifndef SPARSIFY_ORT_ABI_H
#define SPARSIFY_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ORT_CALL __stdcall
typedef wchar_t OrtPathChar;
#else
#define ORT_CALL
typedef char OrtPathChar;
#endif

/* What GetApi takes, and what an OrtCustomOp claims to be. */
#define ORT_TABLE_VERSION 17

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };               /* error codes */
enum { ORT_FLOAT = 1, ORT_INT64 = 7 };                         /* others as in onnx.TensorProto */
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1, ORT_VARIADIC = 2 }; /* inputs and outputs */
enum { ORT_ATTRIBUTE_INT = 1 };                                /* of ReadOpAttr */
enum { ORT_DEVICE_ALLOCATOR = 0, ORT_DEFAULT_MEMORY = 0 };     /* of CreateCpuMemoryInfo */

typedef struct OrtStatus OrtStatus; /* an error; NULL is success */
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtShape OrtShape; /* element type and dimensions of a tensor */
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtOpAttr OrtOpAttr;

typedef void (*OrtLoopBody)(void *context, size_t index);

#define ORT_CALLS(name) OrtStatus *(ORT_CALL * name)
#define ORT_FREES(name) void(ORT_CALL *name)
#define ORT_SKIP(first, last) void *skipped_##first[(last) - (first) + 1]

typedef struct OrtApi {
  ORT_CALLS(CreateStatus)(int code, const char *message); /* 0 */
  ORT_SKIP(1, 1);
  const char *(ORT_CALL *GetErrorMessage)(const OrtStatus *); /* 2 */
  ORT_CALLS(CreateEnv)(int severity, const char *id, OrtEnv **); /* 3 */
  ORT_SKIP(4, 6);
  ORT_CALLS(CreateSession)(const OrtEnv *, const OrtPathChar *, const OrtSessionOptions *,
                           OrtSession **); /* 7 */
  ORT_SKIP(8, 8);
  ORT_CALLS(Run)(OrtSession *, const OrtRunOptions *, const char *const *input_names,
                 const OrtValue *const *inputs, size_t input_count,
                 const char *const *output_names, size_t output_count, OrtValue **); /* 9 */
  ORT_CALLS(CreateSessionOptions)(OrtSessionOptions **); /* 10 */
  ORT_SKIP(11, 25);
  ORT_CALLS(CreateCustomOpDomain)(const char *name, OrtCustomOpDomain **); /* 26 */
  ORT_CALLS(CustomOpDomain_Add)(OrtCustomOpDomain *, const OrtCustomOp *); /* 27 */
  ORT_CALLS(AddCustomOpDomain)(OrtSessionOptions *, OrtCustomOpDomain *); /* 28 */
  ORT_SKIP(29, 48);
  ORT_CALLS(CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *data, size_t bytes,
                                            const int64_t *dims, size_t rank, int type,
                                            OrtValue **); /* 49 */
  ORT_SKIP(50, 50);
  ORT_CALLS(GetTensorMutableData)(OrtValue *, void **); /* 51 */
  ORT_SKIP(52, 56);
  ORT_CALLS(CreateShape)(OrtShape **); /* 57 */
  ORT_CALLS(SetTensorElementType)(OrtShape *, int); /* 58 */
  ORT_CALLS(SetDimensions)(OrtShape *, const int64_t *dims, size_t rank); /* 59 */
  ORT_CALLS(GetTensorElementType)(const OrtShape *, int *); /* 60 */
  ORT_CALLS(GetDimensionsCount)(const OrtShape *, size_t *); /* 61 */
  ORT_CALLS(GetDimensions)(const OrtShape *, int64_t *dims, size_t rank); /* 62 */
  ORT_CALLS(GetSymbolicDimensions)(const OrtShape *, const char **names, size_t rank); /* 63 */
  ORT_SKIP(64, 64);
  ORT_CALLS(GetTensorTypeAndShape)(const OrtValue *, OrtShape **); /* 65 */
  ORT_SKIP(66, 68);
  ORT_CALLS(CreateCpuMemoryInfo)(int allocator, int kind, OrtMemoryInfo **); /* 69 */
  ORT_SKIP(70, 85);
  ORT_CALLS(KernelInfoGetAttribute_int64)(const OrtKernelInfo *, const char *, int64_t *); /* 86 */
  ORT_SKIP(87, 87);
  ORT_CALLS(KernelContext_GetInputCount)(const OrtKernelContext *, size_t *); /* 88 */
  ORT_SKIP(89, 89);
  ORT_CALLS(KernelContext_GetInput)(const OrtKernelContext *, size_t, const OrtValue **); /* 90 */
  ORT_CALLS(KernelContext_GetOutput)(OrtKernelContext *, size_t, const int64_t *dims, size_t rank,
                                     OrtValue **); /* 91 */
  ORT_FREES(ReleaseEnv)(OrtEnv *); /* 92 */
  ORT_FREES(ReleaseStatus)(OrtStatus *); /* 93 */
  ORT_FREES(ReleaseMemoryInfo)(OrtMemoryInfo *); /* 94 */
  ORT_FREES(ReleaseSession)(OrtSession *); /* 95 */
  ORT_FREES(ReleaseValue)(OrtValue *); /* 96 */
  ORT_SKIP(97, 98);
  ORT_FREES(ReleaseShape)(OrtShape *); /* 99 */
  ORT_FREES(ReleaseSessionOptions)(OrtSessionOptions *); /* 100 */
  ORT_SKIP(101, 129);
  ORT_CALLS(AddSessionConfigEntry)(OrtSessionOptions *, const char *, const char *); /* 130 */
  ORT_SKIP(131, 162);
  ORT_CALLS(KernelInfoGetAttributeArray_int64)(const OrtKernelInfo *, const char *, int64_t *,
                                               size_t *); /* 163 */
  ORT_SKIP(164, 227);
  ORT_CALLS(RegisterCustomOpsLibrary_V2)(OrtSessionOptions *, const OrtPathChar *); /* 228 */
  ORT_SKIP(229, 236);
  ORT_CALLS(HasSessionConfigEntry)(const OrtSessionOptions *, const char *, int *); /* 237 */
  ORT_SKIP(238, 243);
  ORT_CALLS(KernelInfo_GetNodeName)(const OrtKernelInfo *, char *name, size_t *size); /* 244 */
  ORT_SKIP(245, 248);
  ORT_CALLS(KernelInfoGetConstantInput_tensor)(const OrtKernelInfo *, size_t, int *is_constant,
                                               const OrtValue **); /* 249 */
  ORT_SKIP(250, 267);
  ORT_CALLS(ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext *, size_t,
                                                 OrtShape **); /* 268; belongs to the context */
  ORT_CALLS(ShapeInferContext_GetAttribute)(const OrtShapeInferContext *, const char *,
                                            const OrtOpAttr **); /* 269 */
  ORT_CALLS(ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext *, size_t,
                                                  const OrtShape *); /* 270 */
  ORT_CALLS(SetSymbolicDimensions)(OrtShape *, const char **names, size_t rank); /* 271 */
  ORT_CALLS(ReadOpAttr)(const OrtOpAttr *, int type, void *data, size_t bytes, size_t *); /* 272 */
  ORT_SKIP(273, 273);
  ORT_CALLS(KernelContext_ParallelFor)(const OrtKernelContext *, OrtLoopBody, size_t count,
                                       size_t batches, void *context); /* 274 */
} OrtApi;

#define ORT_SLOT(name, index) \
  static_assert(offsetof(OrtApi, name) == (index) * sizeof(void *), #name " is not at its slot")
#ifdef __cplusplus
ORT_SLOT(GetTensorMutableData, 51);
ORT_SLOT(ReleaseSessionOptions, 100);
ORT_SLOT(KernelInfoGetConstantInput_tensor, 249);
ORT_SLOT(KernelContext_ParallelFor, 274);
#endif

typedef struct OrtApiBase { /* what OrtGetApiBase() of the runtime returns */
  const OrtApi *(ORT_CALL *GetApi)(uint32_t version); /* NULL where the runtime is older */
  const char *(ORT_CALL *GetVersionString)(void);
} OrtApiBase;

/* An operator, as the runtime reads it; the first word says how many of them there are. */
struct OrtCustomOp {
  uint32_t version;
  void *(ORT_CALL *CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
  const char *(ORT_CALL *GetName)(const OrtCustomOp *);
  const char *(ORT_CALL *GetExecutionProvider)(const OrtCustomOp *); /* NULL: the CPU's */
  int(ORT_CALL *GetInputType)(const OrtCustomOp *, size_t index);
  size_t(ORT_CALL *GetInputCount)(const OrtCustomOp *);
  int(ORT_CALL *GetOutputType)(const OrtCustomOp *, size_t index);
  size_t(ORT_CALL *GetOutputCount)(const OrtCustomOp *);
  void(ORT_CALL *Compute)(void *kernel, OrtKernelContext *);
  void(ORT_CALL *DestroyKernel)(void *kernel);
  int(ORT_CALL *GetInputKind)(const OrtCustomOp *, size_t index);
  int(ORT_CALL *GetOutputKind)(const OrtCustomOp *, size_t index);
  int(ORT_CALL *GetInputMemory)(const OrtCustomOp *, size_t index);
  int(ORT_CALL *GetVariadicInputLeast)(const OrtCustomOp *);
  int(ORT_CALL *IsVariadicInputOfOneType)(const OrtCustomOp *);
  int(ORT_CALL *GetVariadicOutputLeast)(const OrtCustomOp *);
  int(ORT_CALL *IsVariadicOutputOfOneType)(const OrtCustomOp *);
  ORT_CALLS(CreateKernelOrFail)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
  ORT_CALLS(ComputeOrFail)(void *kernel, OrtKernelContext *);
  ORT_CALLS(InferShape)(const OrtCustomOp *, OrtShapeInferContext *);
  int(ORT_CALL *GetFirstVersion)(const OrtCustomOp *);
  int(ORT_CALL *GetLastVersion)(const OrtCustomOp *);
};

#endif
