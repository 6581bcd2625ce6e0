"""The bugs that mutate.py plants: each a text that stands once in a file of kernels/cuda, and what it becomes."""
from typing import NamedTuple, Optional

# Which test program covers an area, and the files that are its own: those are instrumented in the run of race.c.
FAMILIES = {
    'linear': {'test': 'linear', 'units': ['linear', 'gemm_rows', 'gemm_tile', 'lt', 'weight']},
    'norm': {'test': 'step', 'units': ['norm', 'elementwise']},
    'step': {'test': 'step', 'units': ['step', 'record', 'backend']},
    'attn': {'test': 'attn', 'units': ['kv', 'qkv', 'attn', 'attn_mma', 'attn_plain']},
    'sample': {'test': 'sample', 'units': ['sample', 'sample_draw', 'sample_score']},
    # A rank gives up on another after half of that; comm.cu shares memory that only uninstrumented code orders.
    'comm': {'test': 'comm', 'units': ['allreduce'], 'env': {'CUEMU_SPIN': '20'}},
}


class Bug(NamedTuple):
    family: str
    name: str
    file: str
    old: str
    new: str
    case: Optional[str] = None  # of the test program; None: all
    units: tuple = ()  # of a header: the files to build again
    test: Optional[str] = None  # program, if not the family's
    race: bool = False  # no schedule can show it: only race.c runs
    quick: bool = False


BUGS = [
    # ---- norms ----
    Bug('norm', 'no barrier before the sum over warps', 'norm.cuh', 'part[threadIdx.x / 32] = sum;\n    __syncthreads();',
        'part[threadIdx.x / 32] = sum;', units=('norm',), quick=True),
    Bug('norm', 'both sums of a row in one place', 'norm.cuh', 'k = inv_rms(sum, a.dim, a.eps, part[1]);',
        'k = inv_rms(sum, a.dim, a.eps, part[0]);', units=('norm',), quick=True),
    Bug('norm', 'the last slot reads past the row', 'norm.cu', 'v[s] = i < a.dim / 4 ? ((const float4 *)(a.x + row))[i] : zero;',
        'v[s] = ((const float4 *)(a.x + row))[i];'),
    Bug('norm', 'row_norm walks rows without their gaps', 'norm.cu', 'blockIdx.x * stride;', 'blockIdx.x * dim;'),
    Bug('norm', 'scale_cap stops one short', 'elementwise.cu', 'if (i >= n) return;', 'if (i >= n - 1) return;'),
    # ---- products ----
    Bug('linear', 'copies are not waited for', 'gemm_tile.cu', 'cp_wait<STAGES - 2>();\n', '', 'products'),
    Bug('linear', 'copies are waited for one too late', 'gemm_tile.cu', 'cp_wait<STAGES - 2>();', 'cp_wait<STAGES - 1>();',
        'products'),
    Bug('linear', 'no barrier after the wait for copies', 'gemm_tile.cu',
        'cp_wait<STAGES - 2>();\n        __syncthreads();', 'cp_wait<STAGES - 2>();', 'products'),
    Bug('linear', 'a stage is filled while it is read', 'gemm_tile.cu', 'int next = u + STAGES - 1;', 'int next = u + STAGES;',
        'products'),
    Bug('linear', 'rows of x are swizzled otherwise', 'gemm_tile.cu', 'cp_async16(to + chunk_at(row, chunk), from',
        'cp_async16(to + chunk_at(row + 1, chunk) - 128, from', 'products', quick=True),
    Bug('linear', 'rows past the last are read', 'gemm_rows.cu', 'lane / 4, out.n_out - 1);', 'lane / 4, out.n_out);', 'products'),
    Bug('linear', 'parts are not folded where they end', 'gemm_tile.cu', 'if ((p + 1) % per) continue;',
        'if ((p + 2) % per) continue;', 'products'),
    Bug('linear', 'a block of another output is counted', 'gemm_tile.cu', 'all + (size_t)piece * SIZE;',
        'all + (size_t)(piece / 2) * SIZE;', 'products'),
    Bug('linear', 'the counter is not set back', 'gemm.cuh', 'if (last) count[id] = 0;', '', 'products', ('gemm_rows',)),
    Bug('linear', 'no barrier before a block counts as done', 'gemm.cuh', 'SHARED(bool, last);\n    __syncthreads();\n',
        'SHARED(bool, last);\n', race=True),
    Bug('linear', 'segments are read before all warps wrote them', 'gemm_rows.cu', '    __syncthreads();\n', '', 'products',
        quick=True),
    Bug('linear', 'parts are added from the second on', 'gemm_rows.cu', 'for (int p = 0; p < out.split &&',
        'for (int p = 1; p < out.split &&', 'products'),
    Bug('linear', 'the row scale is lost', 'gemm.cuh', 'out.row_scale ? out.row_scale[o] : 1', '1', 'products',
        ('gemm_rows',)),
    Bug('linear', 'rows past the last are stored', 'gemm.cuh', 'if (row >= j.n || o >= out.n_out) return;',
        'if (row > j.n || o >= out.n_out) return;', 'products', ('gemm_rows',)),
    Bug('linear', 'every turn of a gated unit takes the first rows', 'linear.cu',
        'const uint16_t *xs = (const uint16_t *)x + (size_t)at * gate->info.n_in;', 'const uint16_t *xs = (const uint16_t *)x;', 'gated'),
    Bug('linear', 'the library writes floats where BF16 is read', 'lt.cu', 'to.type == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F', 'CUDA_R_32F',
        'gated', quick=True),
    # ---- attention ----
    Bug('attn', 'a key too many is seen', 'attn_mma.cu', 'if (key > pos[e / 2] ||', 'if (key > pos[e / 2] + 1 ||', 'right'),
    Bug('attn', 'the window is one too wide', 'attn.cuh', '? pos - window + 1 : 0', '? pos - window : 0', 'right',
        ('attn_plain',), quick=True),
    Bug('attn', 'keys past the end are not zero', 'attn_mma.cuh', 'ok ? 16 : 0);', '16);', 'invariant', ('attn_mma',)),
    Bug('attn', 'copies are waited for one too late', 'attn_mma.cuh', 'cp_wait<S::RING - 2>();', 'cp_wait<S::RING - 1>();', 'right',
        ('attn_mma',)),
    Bug('attn', 'no barrier before a half is used', 'attn_mma.cuh', '    team_sync<TEAM>();\n    if (h', '    if (h', 'right',
        ('attn_mma',)),
    Bug('attn', 'a ring is filled again while it is read', 'attn_mma.cu', 'cp_wait<0>();\n    team_sync<TEAM>();', 'cp_wait<0>();', 'right', race=True),
    Bug('attn', 'values are read at another swizzle', 'attn_mma.cuh', 'swizzled<S>(lane % 16, j * 16, lane / 16, i)',
        'swizzled<S>(lane % 16, j * 16, lane / 16 ^ 1, i)', 'right', ('attn_mma',)),
    Bug('attn', 'chunks share a place in scratch', 'attn_mma.cu', '* u.n_chunk +\n                u.chunk;', '* u.n_chunk;', 'right'),
    Bug('attn', 'chunks are folded from the second on', 'attn_mma.cu', 'bool copy = k0 + k == 0;', 'bool copy = k0 + k <= 1;', 'right'),
    Bug('attn', 'a tile is dealt to nobody', 'attn_mma.cu', 'if (i < 0) continue;', 'if (i <= 0) continue;', 'right'),
    Bug('attn', 'nobody folds where there is no padding', 'attn.cu', 'sum.part > 0 || rows < n', 'rows < n', 'invariant'),
    Bug('attn', 'nobody clears padding where nothing was cut', 'attn.cu', 'sum.part > 0 || rows < n', 'sum.part > 0', 'right'),
    Bug('attn', 'a recorded step folds only if that one had to', 'attn.cu', ' || l->n_item == n', '', 'steps', quick=True),
    Bug('attn', 'the scale of values is lost', 'attn_mma.cuh', 'bf16x2_pack(x[0] * y[0], x[1] * y[1])', 'bf16x2_pack(x[0], x[1])', 'right',
        ('attn_mma',)),
    Bug('attn', 'weights are read before all lanes wrote them', 'attn_plain.cu', ': p;\n        __syncwarp();', ': p;', 'right'),
    Bug('attn', 'weights are written while others read them', 'attn_plain.cu', 'o[i] = sum;\n        }\n        __syncwarp();',
        'o[i] = sum;\n        }', 'right'),
    Bug('attn', 'a key is stored in the block before', 'qkv.cu', 'a.table[it.table + (t >> a.kv.shift)]',
        'a.table[it.table + ((t - 1) >> a.kv.shift)]', 'right', quick=True),
    Bug('attn', 'a head is stored before its lanes turned it', 'qkv.cu', '    __syncwarp(); /* the row as its other lanes left it */\n', '',
        'steps'),
    # ---- steps ----
    Bug('step', 'the pinned block is not waited for', 'step.cu',
        'CU(c, cudaEventSynchronize(s->copied[turn]));\n', '', quick=True),
    Bug('step', 'nobody says when the copies are done', 'step.cu', 'CU(c, cudaEventRecord(s->copied[turn], c->stream));\n', ''),
    Bug('step', 'where a plan lies depends on lengths', 'step.cu', '(size_t)seats(c, n) * sizeof(struct cu_item));',
        '(size_t)seats(c, n) * sizeof(struct cu_item) + (size_t)l->item[0].pos);', 'steps', test='attn', quick=True),
    Bug('step', 'a table begins one block late', 'step.cu', 'memcpy(t->host + at, it->table, (size_t)n',
        'memcpy(t->host + at, it->table + 1, (size_t)n', 'steps', test='attn'),
    Bug('step', 'the table of another item is taken', 'step.cu', 'return packed[i].table;', 'return packed[k].table;', 'right', test='attn'),
    Bug('step', 'a recorded step is replayed for another number of rows', 'record.cu', 'if (r->graph[i].n == n)', 'if (r->graph[i].n >= n)'),
    # ---- sampling ----
    Bug('sample', 'a token of the draw before is not taken', 'weight.cu', 'from < 0 ? ids[blockIdx.x] : result[from].token',
        'ids[blockIdx.x]', 'overlap', quick=True),
    Bug('sample', 'ids that are known come from a draw', 'step.cu', 'drawn[i] = -1;', 'drawn[i] = 0;', 'overlap'),
    Bug('sample', 'a draw counts as done before its results are copied', 'sample.cu',
        '''    CU(c, cudaMemcpyAsync(p->out, s->view.result, (size_t)n * sizeof *p->out, cudaMemcpyDeviceToHost,
                          c->stream));
    CU(c, cudaEventRecord(p->done, c->stream));''',
        '''    CU(c, cudaEventRecord(p->done, c->stream));
    CU(c, cudaMemcpyAsync(p->out, s->view.result, (size_t)n * sizeof *p->out, cudaMemcpyDeviceToHost,
                          c->stream));''', 'overlap'),
    Bug('sample', 'nobody waits for a draw', 'sample.cu', 'if (c->sample->pair[i].out == out) CU', 'if (!out) CU', 'overlap'),
    Bug('linear', 'a slice is packed while the last one is copied from there', 'weight.cu',
        'cudaError_t bad = cudaEventSynchronize(p->copied[turn]);', 'cudaError_t bad = cudaSuccess;', 'packing'),
    Bug('sample', 'the pinned block is not waited for', 'sample.cu', 'CU(c, cudaEventSynchronize(p->done));\n', '', 'overlap',
        quick=True),
    Bug('sample', 'every round takes the first rows', 'sample.cu', 'v.x = logits + (size_t)at * vocab;', 'v.x = logits;', 'host'),
    Bug('sample', 'ties go to the higher id', 'sample.cuh', '(uint64_t)u << 32 | (unsigned)~id', '(uint64_t)u << 32 | (unsigned)id', 'host',
        ('sample_draw', 'sample_score')),
    Bug('sample', 'no barrier before the sums of warps', 'sample_find.cuh', 'if (lane == 31) sh.part[warp] = s;\n    __syncthreads();',
        'if (lane == 31) sh.part[warp] = s;', 'host', ('sample_draw',)),
    Bug('sample', 'bins are read while they are cleared', 'sample_find.cuh', '        __syncthreads(); /* all have read sh */\n', '', 'host',
        ('sample_draw',), race=True),
    Bug('sample', 'top_p keeps a token too few', 'sample_draw.cu', 'before >= share(t.top_p, total)', 'before + mine.mass >= share(t.top_p, total)',
        'host'),
    Bug('sample', 'spans are summed before all is written', 'sample_score.cu', '    __syncthreads();\n    sum_spans(sh, v, row);', '    sum_spans(sh, v, row);',
        'host'),
    # ---- between ranks ----
    Bug('comm', 'a flag is raised before all threads have written', 'allreduce.cu', 'int t = threadIdx.x;\n    __syncthreads();',
        'int t = threadIdx.x;', race=True, quick=True),
    Bug('comm', 'a flag is raised without release', 'allreduce.cu', 'st_release(&p.board[t]->flag[blockIdx.x][p.rank], m.epoch)',
        'atomicExch(&p.board[t]->flag[blockIdx.x][p.rank], m.epoch)', race=True),
    Bug('comm', 'a flag is read without acquire', 'allreduce.cu', '(int)(ld_acquire(flag) - epoch)',
        '(int)(atomicAdd((unsigned *)flag, 0) - epoch)', race=True),
    Bug('comm', 'a peer is read before its flag', 'allreduce.cu', 'spin_until(is_there(flag, m.epoch) || (++polls % POLLS == 0 && '
        'is_hopeless(p, since)));\n        there = is_there(flag, m.epoch);\n', '', race=True),
    Bug('comm', 'every block waits for the first', 'allreduce.cu', '&own->flag[blockIdx.x][t]', '&own->flag[0][t]', race=True),
    Bug('comm', 'a rank waits for the message before', 'allreduce.cu', '(int)(ld_acquire(flag) - epoch) >= 0',
        '(int)(ld_acquire(flag) - epoch) >= -1', race=True),
    Bug('comm', 'a message overwrites the one before while that is read', 'allreduce.cu', '(size_t)(epoch % 2) * (p.floats / 4)', '0',
        race=True, quick=True),
    Bug('comm', 'the first block counts the message', 'allreduce.cu', '== gridDim.x - 1) {', '== 0) {', race=True),
    Bug('comm', 'a row overwrites sums still in use', 'allreduce.cu', '        __syncthreads(); /* part is used again */\n', '', race=True),
    Bug('comm', 'the count of blocks is not set back', 'allreduce.cu', 'own->through = 0;\n', ''),
    Bug('comm', 'each rank begins the sum with its own part', 'allreduce.cu', 'v[k] = message_read(p, m, k, i);',
        'v[k] = message_read(p, m, (p.rank + k) % p.size, i);'),
]
