/*
 * list.h - a doubly linked list; its nodes are members of the things it strings together
 *
 * Interface: a list is a node of its own, the head; list_init() empties it. Adding,
 * removing and finding the oldest take the same time however long the list is, and no
 * memory.
 */
#ifndef LIST_H
#define LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list_node {
    struct list_node *prev, *next;
};

/* The thing of this type that has the node as this member. */
#define LIST_OWNER(node, type, member)                                                   \
    ((type *)(void *)((char *)(node)-offsetof(type, member)))

static inline void list_init(struct list_node *head)
{
    head->prev = head->next = head;
}

static inline bool list_empty(const struct list_node *head)
{
    return head->next == head;
}

static inline void list_append(struct list_node *head, struct list_node *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void list_remove(struct list_node *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
}

#endif
