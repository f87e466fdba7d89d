/* The database: one key's row, the one transaction that holds it, and what can happen to a connection.
 *
 * A transaction holds the key from the statement that changes its row (or would insert it) until it ends: a unique index and
 * locks on rows do that in every isolation level.
 */

/* Who can hold it. Callers are numbered from 1; the last of them, the visitor, comes when the others are done. */
#define GONE     0               /* the transaction of a client that hung up, until the server notices */
#define VISITOR  (CALLERS + 1)
#define PURGER   (CALLERS + 2)
#define ADRIFT   (CALLERS + 3)   /* a packet that arrives after its client has hung up, in a transaction that holds nothing */
#define NOBODY   (CALLERS + 4)

typedef Row {
    mtype status = NO_ROW;
    byte owner;                  /* the call that it is of; 0: of none */
    byte attempt;                /* and which of the call's attempts has made it */
    byte result;
    bit expired;                 /* by the database's clock */
    bit dust;                    /* for a minute */
    byte life                    /* which use of the key it is of; the judge's */
};

#define made(to, is_status, is_owner, is_attempt, is_result) \
    to.status = is_status; to.owner = is_owner; to.attempt = is_attempt; to.result = is_result; to.expired = 0; to.dust = 0

Row row;                         /* as it was committed */
Row draft;                       /* what the transaction that holds the key has made of it */
byte holder = NOBODY;
bit wrote[NOBODY];               /* what the function has written in each open transaction */
bit on_its_way;                  /* COMMIT, from the client that is GONE */
byte adrift, its_attempt;        /* whose row the packet names that is ADRIFT; 0: there is none */

byte faults = FAULTS;            /* how many things may still go wrong */
byte unsettled;                  /* calls that do not know whether their COMMIT arrived */

#include "invariants.pml"

inline rollback(who) {
    if
    :: holder == who -> holder = NOBODY; made(draft, NO_ROW, 0, 0, 0)
    :: else
    fi;
    wrote[who] = 0
}

inline commit(who) {
    judge_commit(who);
    if
    :: holder == who -> made(row, draft.status, draft.owner, draft.attempt, draft.result); row.life = life
    :: else
    fi;
    rollback(who)                /* and there is nothing left to undo */
}

/* The client leaves, or takes the server for gone. The server has not noticed, and the key stays held until it does. */
inline hang_up(who, commit_was_sent) {
    if
    :: holder == who -> holder = GONE; wrote[GONE] = wrote[who]; on_its_way = commit_was_sent
    :: else
    fi;
    wrote[who] = 0
}

active proctype server() {
end:
    do
    :: atomic { holder == GONE && on_its_way -> printf("Note over D: COMMIT arrives\n"); commit(GONE); on_its_way = 0 }
    :: atomic { holder == GONE -> rollback(GONE); on_its_way = 0; printf("Note over D: finds the client gone: ROLLBACK\n") }
    :: atomic { adrift && holder == NOBODY && row.status != NO_ROW && row.owner == adrift && row.attempt == its_attempt ->
           printf("Note over D: the packet arrives: store (1 row) and COMMIT\n");
           holder = ADRIFT; made(draft, COMPLETED, adrift, its_attempt, adrift); wrote[ADRIFT] = 1;
           commit(ADRIFT); adrift = 0; its_attempt = 0 }
    :: atomic { adrift -> adrift = 0; its_attempt = 0 }
    :: atomic { FORGETS_A_COMMIT && faults > 0 && holder == NOBODY && row.status == COMPLETED && !row.expired -> faults--;
           made(row, NO_ROW, 0, 0, 0); effects[life] = 0; kept = 0;
           printf("Note over D: crashes, and the last COMMIT is not there any more\n") }
    od
}

/* Time, as far as it matters: a row expires; and a minute later calls have settled what they did not know. */
active proctype clock() {
    byte left = EXPIRIES;
end:
    do
    :: atomic { left > 0 && (row.status == COMPLETED || row.status == FAILED) && !row.expired ->
           left--; row.expired = 1; over = 1; printf("Note over D: the row expires\n") }
    :: atomic { row.expired && !row.dust && unsettled == 0 -> row.dust = 1; printf("Note over D: a minute later\n") }
    od
}

#define purgeable  (row.dust || PURGE_WITHOUT_GRACE && row.expired || PURGE_BY_CLIENTS_CLOCK && row.status == COMPLETED)

active proctype purger() {
end:
    do
    :: atomic { holder == NOBODY && purgeable -> holder = PURGER; printf("P->>D: DELETE the row\n") };
       if
       :: atomic { commit(PURGER); printf("P->>D: COMMIT\n") }
       :: atomic { faults > 0 -> faults--; rollback(PURGER); printf("Note over P: crashes\n") }
       fi
    od
}
