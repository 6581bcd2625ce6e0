/* Filters on sequences (filters_seq.c), for the table in filters.c. */
#pragma once
#include "value.h"

typedef struct val filter_fn(struct ctx *c, struct val self, const struct args *a);
filter_fn filter_batch, filter_dictsort, filter_first, filter_items_of, filter_join, filter_last,
    filter_length, filter_list, filter_map, filter_max, filter_min, filter_reject, filter_rejectattr,
    filter_reverse, filter_select, filter_selectattr, filter_slice, filter_sort, filter_sum, filter_unique;
