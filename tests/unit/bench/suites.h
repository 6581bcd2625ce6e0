/* The test cases of the load tester, one file each. */
#pragma once
#include <check.h>

TCase *reader_case(void);  /* HTTP and SSE from hostile pieces */
TCase *numbers_case(void); /* statistics, printed block, JSON, arrivals, options */
TCase *load_case(void);    /* end to end against a server in this process */
