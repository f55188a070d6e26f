/* The texts of the numbers: made from the same tables as the enums. */
#include "include/ipsecfast.h"

static const char *const drop_text[] = {
#define IPSF_DROP(name, text, help) [IPSF_DROP_##name] = text,
#include "tables/drop_reasons.def"
#undef IPSF_DROP
};

static const char *const drop_help[] = {
#define IPSF_DROP(name, text, help) [IPSF_DROP_##name] = help,
#include "tables/drop_reasons.def"
#undef IPSF_DROP
};

static const char *const event_text[] = {
#define IPSF_EVENT(name, text) [IPSF_EVENT_##name] = text,
#include "tables/events.def"
#undef IPSF_EVENT
};

static const char *const stage_text[] = {
#define IPSF_STAGE(name, text, help) [IPSF_STAGE_##name] = text,
#include "tables/stages.def"
#undef IPSF_STAGE
};

static const char *const stage_help[] = {
#define IPSF_STAGE(name, text, help) [IPSF_STAGE_##name] = help,
#include "tables/stages.def"
#undef IPSF_STAGE
};

const char *ipsf_drop_text(unsigned reason)
{
	return reason < IPSF_DROP_COUNT ? drop_text[reason] : "unknown";
}

const char *ipsf_drop_help(unsigned reason)
{
	return reason < IPSF_DROP_COUNT ? drop_help[reason] : "There is no such drop reason.";
}

const char *ipsf_event_text(unsigned kind)
{
	return kind < IPSF_EVENT_COUNT ? event_text[kind] : "unknown";
}

const char *ipsf_stage_text(unsigned stage)
{
	return stage < IPSF_STAGE_COUNT ? stage_text[stage] : "unknown";
}

const char *ipsf_stage_help(unsigned stage)
{
	return stage < IPSF_STAGE_COUNT ? stage_help[stage] : "There is no such stage.";
}

const char *ipsf_error_text(int error)
{
	switch (error) {
	case IPSF_OK: return "no error";
	case IPSF_ENOMEM: return "out of memory";
	case IPSF_EINVAL: return "a value is out of its range";
	case IPSF_EEXIST: return "it is installed already";
	case IPSF_ENOENT: return "there is no such object";
	case IPSF_ECRYPTO: return "the crypto library refused";
	case IPSF_ESYS: return "a system call failed";
	case IPSF_ENOSPC: return "the output is too small";
	case IPSF_ELATE: return "an SA is installed already: all workers must be added before the first SA";
	default: return "unknown error";
	}
}
