/* simdjson's On-Demand API over order books: the fastest general parser, doing the work of ours. */
#include <simdjson.h>

#include <cstring>

using namespace simdjson;

static ondemand::parser parser;
/* simdjson reads beyond the end: each frame is copied behind so much room, as a collector would */
static char room[1 << 20];

/* Upbit's and Bithumb's units. Returns numbers read, 0 for a frame that is refused. */
extern "C" long read_units(const char *frame, size_t size, const char *units, const char *ap, const char *bp,
                           const char *as, const char *bs, double *out)
{
    try {
        std::memcpy(room, frame, size);
        auto doc = parser.iterate(room, size, sizeof room);
        size_t n = 0;
        for (auto unit : doc[units].get_array()) {
            auto object = unit.get_object();
            out[n++] = object[ap].get_double();
            out[n++] = object[bp].get_double();
            out[n++] = object[as].get_double();
            out[n++] = object[bs].get_double();
        }
        return (long)n;
    } catch (const simdjson_error &) {
        return 0;
    }
}

static size_t read_pairs(ondemand::array pairs, double *out, size_t n)
{
    for (auto pair : pairs)
        for (auto number : pair.get_array())
            out[n++] = number.get_double_in_string();
    return n;
}

/* Binance's pairs of strings below data */
extern "C" long read_sides(const char *frame, size_t size, const char *bids, const char *asks, double *out)
{
    try {
        std::memcpy(room, frame, size);
        auto doc = parser.iterate(room, size, sizeof room);
        auto data = doc["data"].get_object();
        size_t n = read_pairs(data[bids].get_array(), out, 0);
        return (long)read_pairs(data[asks].get_array(), out, n);
    } catch (const simdjson_error &) {
        return 0;
    }
}

struct Frame {
    const char *data;
    size_t size;
};

extern "C" long units_of_all(const Frame *frames, size_t count, const char *units, const char *ap, const char *bp,
                             const char *as, const char *bs, double *out)
{
    long n = 0;
    for (size_t i = 0; i < count; i++)
        n += read_units(frames[i].data, frames[i].size, units, ap, bp, as, bs, out);
    return n;
}

extern "C" long sides_of_all(const Frame *frames, size_t count, const char *bids, const char *asks, double *out)
{
    long n = 0;
    for (size_t i = 0; i < count; i++)
        n += read_sides(frames[i].data, frames[i].size, bids, asks, out);
    return n;
}
