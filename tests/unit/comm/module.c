/* A module for test_module: ABI is its number; -1 makes it no module at all. */
#if ABI >= 0
struct table {
    int abi;
    const char *word;
};
__attribute__((visibility("default"))) const void *test_entry(void);
const void *test_entry(void)
{
    static const struct table table = {ABI, "hello"};
    return &table;
}
#else
extern int nowhere_to_be_found(void);
__attribute__((visibility("default"))) int test_entry(void);
int test_entry(void) { return nowhere_to_be_found(); }
#endif
