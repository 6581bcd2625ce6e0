#pragma once
#include <check.h>

Suite *suite_malformed(void); /* requests that are none */
Suite *suite_transport(void); /* bytes */
Suite *suite_routes(void);    /* routes, keys, CORS, states */
Suite *suite_json(void);      /* bodies: syntax, depth, size */
Suite *suite_fields(void);    /* bodies: fields */
Suite *suite_api(void);       /* shapes of answers */
Suite *suite_stream(void);    /* streams, departures, shutdown */
