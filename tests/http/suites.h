#pragma once
#include <check.h>

Suite *suite_transport(void); /* bytes */
Suite *suite_routes(void);    /* routes, keys, CORS, states */
Suite *suite_json(void);      /* bodies: syntax and fields */
Suite *suite_api(void);       /* shapes of answers */
Suite *suite_stream(void);    /* streams, departures, shutdown */
