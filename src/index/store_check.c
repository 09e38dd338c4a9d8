// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Are the pages of a store sound? LMDB believes them: a page that was damaged on disk makes it read
 * or write anywhere. So a file that no seal vouches for is read page by page, with read(2) and not
 * through a mapping, before LMDB gets it: everything that LMDB takes on trust is compared with
 * everything else that says the same.
 *
 * The format is LMDB 0.9's (liblmdb/mdb.c: MDB_page, MDB_node, MDB_db, MDB_meta; host byte order).
 * Checked are the trees of the newest snapshot: page numbers and kinds, that no page is used twice
 * or free and used, where nodes begin and end, the order of keys within their parents' bounds, and
 * all counts. What lies in pages that no tree leads to is of no account. Values are not looked into
 * (map_check.c).
 */
#include "index/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define N_METAS 2
#define META_MAGIC 0xBEEFC0DE
#define META_VERSION 1
#define PAGE_SIZE_MIN 4096
#define PAGE_SIZE_MAX 32768
#define DEPTH_MAX 31 /* CURSOR_STACK, less one for what is added to a tree */
#define NO_PAGE UINT64_MAX

enum {
	PAGE_BRANCH = 1,
	PAGE_LEAF = 2,
	PAGE_OVERFLOW = 4,
	PAGE_META = 8,
	PAGE_DIRTY = 0x10,
	PAGE_SUB = 0x40
};
enum { NODE_BIG = 1, NODE_TREE = 2, NODE_SEVERAL = 4 };

struct page_head {
	uint64_t number;
	uint16_t pad, flags;
	union {
		struct {
			uint16_t lower, upper;
		};
		uint32_t n_overflow;
	};
};
static_assert(sizeof(struct page_head) == 16, "MDB_page");

struct node_head {
	uint16_t low, high; /* leaf: size of the value; branch: page number with flags as the rest */
	uint16_t flags, key_len;
};
static_assert(sizeof(struct node_head) == 8, "MDB_node");

struct tree_head {
	uint32_t pad;
	uint16_t flags, depth;
	uint64_t n_branches, n_leaves, n_overflow, n_entries, root;
};
static_assert(sizeof(struct tree_head) == 48, "MDB_db");

struct meta {
	uint32_t magic, version;
	uint64_t address, map_size;
	struct tree_head free, main; /* free.pad: size of a page */
	uint64_t last_page, txn;
};
static_assert(sizeof(struct meta) == 136, "MDB_meta");

struct bytes {
	const uint8_t *data;
	size_t len;
};

struct node {
	struct node_head head;
	struct bytes key, value;
	uint64_t child; /* of a branch */
};

struct check {
	int fd;
	size_t page_size;
	uint64_t n_pages, txn;
	uint8_t *used; /* owned; a bit each */
};

struct tree;
/* A node of a leaf. */
typedef int leaf_fn(struct check *check, struct tree *tree, const struct node *node);

struct tree {
	struct tree_head head;
	struct tree_head counted;
	bool has_integer_keys;
	leaf_fn *fn;
};

static int check_tree(struct check *check, struct tree *tree);

static int use_page(struct check *check, uint64_t number)
{
	if (number < N_METAS || number >= check->n_pages ||
	    check->used[number / 8] & 1 << number % 8)
		return -EUCLEAN;
	check->used[number / 8] |= (uint8_t)(1 << number % 8);
	return 0;
}

static int read_at(struct check *check, uint64_t number, void *buf, size_t len)
{
	ssize_t n = pread(check->fd, buf, len, (off_t)(number * check->page_size));

	return n < 0 ? -errno : (size_t)n == len ? 0 : -EUCLEAN;
}

/* A page by itself: where its nodes begin and end. `size`: of the page, or of the value that a page
 * within a page is. Returns the number of nodes. */
static int check_layout(const uint8_t *page, size_t size, uint16_t flags)
{
	uint64_t seen[PAGE_SIZE_MAX / 2 / 64] = { 0 }; /* a bit for two bytes: of nodes before */
	struct page_head head;
	int n;

	if (size < sizeof(head))
		return -EUCLEAN;
	memcpy(&head, page, sizeof(head));
	if (head.flags != flags || head.lower < sizeof(head) || head.lower % 2 ||
	    head.lower > head.upper || head.upper > size)
		return -EUCLEAN;
	n = (head.lower - (int)sizeof(head)) / 2;
	for (int i = 0; i < n; i++) {
		struct node_head node;
		uint16_t begin;
		size_t end;

		memcpy(&begin, page + sizeof(head) + 2 * i, sizeof(begin));
		if (begin % 2 || begin < head.upper || begin + sizeof(node) > size)
			return -EUCLEAN;
		memcpy(&node, page + begin, sizeof(node));
		end = begin + sizeof(node) + node.key_len;
		if (!(flags & PAGE_BRANCH))
			end += node.flags & NODE_BIG ? sizeof(uint64_t) :
						       node.low | (size_t)node.high << 16;
		if (end > size)
			return -EUCLEAN;
		for (size_t at = begin / 2; at < (end + 1) / 2; at++) {
			if (seen[at / 64] & 1ULL << at % 64)
				return -EUCLEAN;
			seen[at / 64] |= 1ULL << at % 64;
		}
	}
	return n;
}

static struct node node_at(const uint8_t *page, int i, bool is_branch)
{
	struct node node;
	uint16_t begin;

	memcpy(&begin, page + sizeof(struct page_head) + 2 * i, sizeof(begin));
	memcpy(&node.head, page + begin, sizeof(node.head));
	node.key = (struct bytes){ page + begin + sizeof(node.head), node.head.key_len };
	node.value = (struct bytes){ node.key.data + node.key.len,
				     node.head.low | (size_t)node.head.high << 16 };
	node.child = node.head.low | (uint64_t)node.head.high << 16;
	if (is_branch)
		node.child |= (uint64_t)node.head.flags << 32;
	return node;
}

static int compare(const struct tree *tree, struct bytes a, struct bytes b)
{
	size_t len = a.len < b.len ? a.len : b.len;
	int r;

	if (tree->has_integer_keys) {
		uint64_t x, y;

		memcpy(&x, a.data, sizeof(x));
		memcpy(&y, b.data, sizeof(y));
		return (x > y) - (x < y);
	}
	r = memcmp(a.data, b.data, len);
	return r ?: (a.len > b.len) - (a.len < b.len);
}

/*
 * The keys of a page are in order, and low <= key < high (NULL: no bound). The first key of a
 * branch stands for all that is below.
 */
static int check_keys(const struct tree *tree, const uint8_t *page, int n, bool is_branch,
		      const struct bytes *low, const struct bytes *high)
{
	struct bytes last = {};

	for (int i = is_branch; i < n; i++) {
		const struct bytes key = node_at(page, i, is_branch).key;

		if (key.len == 0 || (tree->has_integer_keys && key.len != sizeof(uint64_t)) ||
		    (last.data && compare(tree, last, key) >= 0) ||
		    (low && compare(tree, *low, key) > 0) ||
		    (high && compare(tree, key, *high) >= 0))
			return -EUCLEAN;
		last = key;
	}
	return 0;
}

static int check_page(struct check *check, struct tree *tree, uint64_t number, unsigned depth,
		      const struct bytes *low, const struct bytes *high)
{
	const bool is_branch = depth < tree->head.depth;
	_cleanup_free_ uint8_t *page = malloc(check->page_size);
	struct page_head head;
	int n, r;

	if (!page)
		return -ENOMEM;
	r = use_page(check, number) ?: read_at(check, number, page, check->page_size);
	if (r)
		return r;
	memcpy(&head, page, sizeof(head));
	n = check_layout(page, check->page_size, is_branch ? PAGE_BRANCH : PAGE_LEAF);
	/* LMDB asserts that a branch has two children, but for the tree of free pages */
	if (n < 1 || head.number != number ||
	    (n < 2 && is_branch && tree->head.flags != MDB_INTEGERKEY))
		return n < 0 ? n : -EUCLEAN;
	r = check_keys(tree, page, n, is_branch, low, high);
	*(is_branch ? &tree->counted.n_branches : &tree->counted.n_leaves) += 1;
	for (int i = 0; !r && i < n; i++) {
		const struct node node = node_at(page, i, is_branch), next =
			node_at(page, i + 1 < n ? i + 1 : i, is_branch);

		if (is_branch)
			r = check_page(check, tree, node.child, depth + 1, i ? &node.key : low,
				       i + 1 < n ? &next.key : high);
		else
			r = tree->fn(check, tree, &node);
	}
	return r;
}

static int check_tree(struct check *check, struct tree *tree)
{
	const struct tree_head *head = &tree->head, *counted = &tree->counted;
	int r = 0;

	if (head->root == NO_PAGE)
		return head->depth || head->n_entries ? -EUCLEAN : 0;
	if (!head->depth || head->depth > DEPTH_MAX)
		return -EUCLEAN;
	r = check_page(check, tree, head->root, 1, NULL, NULL);
	if (!r && (head->n_branches != counted->n_branches || head->n_leaves != counted->n_leaves ||
		   head->n_overflow != counted->n_overflow ||
		   head->n_entries != counted->n_entries))
		r = -EUCLEAN;
	return r;
}

/* ---- leaves ---- */

/* A value in pages of its own: read whole. */
static int read_big(struct check *check, struct tree *tree, const struct node *node, uint8_t **ret)
{
	const size_t size = sizeof(struct page_head) + node->value.len;
	const uint64_t n = (size - 1) / check->page_size + 1;
	_cleanup_free_ uint8_t *pages = NULL;
	struct page_head head;
	uint64_t number;
	int r = 0;

	memcpy(&number, node->value.data, sizeof(number));
	if (number >= check->n_pages || n > check->n_pages - number)
		return -EUCLEAN;
	for (uint64_t i = 0; !r && i < n; i++)
		r = use_page(check, number + i);
	pages = malloc(size);
	if (!pages)
		return -ENOMEM;
	r = r ?: read_at(check, number, pages, size);
	if (r)
		return r;
	memcpy(&head, pages, sizeof(head));
	if (head.number != number || head.flags != PAGE_OVERFLOW || head.n_overflow != n)
		return -EUCLEAN;
	tree->counted.n_overflow += n;
	*ret = rvl_take_ptr(pages);
	return 0;
}

static int check_value(struct check *check, struct tree *tree, const struct node *node)
{
	tree->counted.n_entries++;
	return node->head.flags ? -EUCLEAN : 0;
}

/* Pages that are free: their number, then they, descending. */
static int check_free(struct check *check, struct tree *tree, const struct node *node)
{
	_cleanup_free_ uint8_t *big = NULL;
	const uint8_t *list = node->value.data;
	uint64_t n, number, last = NO_PAGE;
	int r = 0;

	tree->counted.n_entries++;
	/* the key: of the transaction that freed them */
	memcpy(&number, node->key.data, sizeof(number));
	if (node->head.flags & ~NODE_BIG || number > check->txn)
		return -EUCLEAN;
	if (node->head.flags & NODE_BIG) {
		r = read_big(check, tree, node, &big);
		if (r)
			return r;
		list = big + sizeof(struct page_head);
	}
	if (node->value.len < sizeof(n))
		return -EUCLEAN;
	memcpy(&n, list, sizeof(n));
	if (n > node->value.len / sizeof(number) - 1)
		return -EUCLEAN;
	for (uint64_t i = 1; !r && i <= n; i++) {
		memcpy(&number, list + i * sizeof(number), sizeof(number));
		r = number < last ? use_page(check, number) : -EUCLEAN;
		last = number;
	}
	return r;
}

/* Several values of one key, in a page within the node. */
static int check_sub_page(struct tree *tree, const struct node *node)
{
	struct tree values = {};
	struct page_head head;
	int n, r;

	if (node->value.len < sizeof(head))
		return -EUCLEAN;
	memcpy(&head, node->value.data, sizeof(head));
	n = check_layout(node->value.data, node->value.len,
			 PAGE_LEAF | PAGE_SUB | (head.flags & PAGE_DIRTY));
	if (n < 1)
		return n < 0 ? n : -EUCLEAN;
	r = check_keys(&values, node->value.data, n, false, NULL, NULL);
	for (int i = 0; !r && i < n; i++)
		r = node_at(node->value.data, i, false).head.flags ? -EUCLEAN : 0;
	tree->counted.n_entries += (uint64_t)n;
	return r;
}

static int check_several(struct check *check, struct tree *tree, const struct node *node)
{
	struct tree values = { .fn = check_value };
	int r;

	switch (node->head.flags) {
	case 0:
		return check_value(check, tree, node);
	case NODE_SEVERAL:
		return check_sub_page(tree, node);
	case NODE_SEVERAL | NODE_TREE:
		if (node->value.len != sizeof(values.head))
			return -EUCLEAN;
		memcpy(&values.head, node->value.data, sizeof(values.head));
		if (values.head.flags || values.head.pad || !values.head.n_entries)
			return -EUCLEAN;
		r = check_tree(check, &values);
		tree->counted.n_entries += values.counted.n_entries;
		return r;
	default:
		return -EUCLEAN;
	}
}

/* A named database. */
static int check_database(struct check *check, struct tree *tree, const struct node *node)
{
	struct tree named = {};

	tree->counted.n_entries++;
	if (node->head.flags != NODE_TREE || node->value.len != sizeof(named.head))
		return -EUCLEAN;
	memcpy(&named.head, node->value.data, sizeof(named.head));
	for (unsigned i = 0; i < RVL_STORE_DATABASES; i++) {
		const struct rvl_store_database *known = &rvl_store_databases[i];

		if (node->key.len != strlen(known->name) ||
		    memcmp(node->key.data, known->name, node->key.len) != 0)
			continue;
		if (named.head.flags != known->flags || named.head.pad)
			return -EUCLEAN;
		named.has_integer_keys = known->flags & MDB_INTEGERKEY;
		named.fn = known->flags & MDB_DUPSORT ? check_several : check_value;
		return check_tree(check, &named);
	}
	return -EUCLEAN;
}

/* ---- the file ---- */

static int read_meta(struct check *check, unsigned i, struct meta *ret)
{
	uint8_t page[sizeof(struct page_head) + sizeof(struct meta)];
	struct page_head head;
	int r = read_at(check, i, page, sizeof(page));

	if (r)
		return r;
	memcpy(&head, page, sizeof(head));
	memcpy(ret, page + sizeof(head), sizeof(*ret));
	if (head.flags != PAGE_META || head.number != i || ret->magic != META_MAGIC ||
	    ret->version != META_VERSION || ret->free.pad < PAGE_SIZE_MIN ||
	    ret->free.pad > PAGE_SIZE_MAX || ret->free.pad & (ret->free.pad - 1))
		return -EUCLEAN;
	return 0;
}

int rvl_store_check(int fd)
{
	struct tree free_pages = { .has_integer_keys = true, .fn = check_free };
	struct tree main_tree = { .fn = check_database };
	struct check check = { .fd = fd };
	struct meta meta[N_METAS];
	const struct meta *newest;
	struct stat st;
	int r;

	if (fstat(fd, &st))
		return -errno;
	r = read_meta(&check, 0, &meta[0]);
	check.page_size = meta[0].free.pad;
	r = r ?: read_meta(&check, 1, &meta[1]);
	if (r)
		return r;
	newest = &meta[meta[0].txn < meta[1].txn];
	if (newest->free.pad != check.page_size || newest->main.flags || newest->main.pad ||
	    (newest->free.flags & ~MDB_NOSUBDIR) != MDB_INTEGERKEY || newest->last_page < N_METAS - 1 ||
	    newest->last_page >= (uint64_t)st.st_size / check.page_size)
		return -EUCLEAN;
	check.n_pages = newest->last_page + 1;
	check.txn = newest->txn;
	check.used = calloc(1, check.n_pages / 8 + 1);
	if (!check.used)
		return -ENOMEM;
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
	main_tree.head = newest->main;
	free_pages.head = newest->free;
	free_pages.head.flags = MDB_INTEGERKEY; /* MDB_NOSUBDIR is the environment's */
	r = check_tree(&check, &main_tree) ?: check_tree(&check, &free_pages);
	free(check.used);
	return r;
}
