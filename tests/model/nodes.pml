/* Two nodes that may both be written to, as in Galera and in MySQL's Group Replication. A lock is held on one node only.
 * COMMIT puts a transaction into one order that all nodes have, and there the first wins: one that finds another of its key
 * before it, which it has not seen, is rolled back (1213, 1180). Each node does what is in the order in its own time, and
 * rolls back whoever is in its way. One of the nodes may crash; the other has the whole order.
 */

#ifndef CALLERS
#define CALLERS 3
#endif
#ifndef FAULTS
#define FAULTS 1
#endif
#define VISITOR  (CALLERS + 1)
#define NOBODY   0
#define LONGEST  6               /* of the order */

#include "words.pml"
#include "mutants.pml"

byte faults = FAULTS;
byte waiting = CALLERS;          /* callers that have not got their answer */

byte ordered;                    /* how many transactions are in the order */
byte order[LONGEST + 1];         /* whose they are, from 1 */
byte done[2];                    /* how many of them a node has done */
byte row[2];                     /* whose result it has by then; 0: there is no row */
byte holder[2];                  /* the caller whose open transaction there holds the key */
bit is_down[2];
bit was_in_the_way[VISITOR + 1]; /* of a node, which has rolled it back; it has not heard of that yet */

byte said;                       /* the judge's: what callers were told; 0: nothing yet */

inline rollback() {
    if
    :: holder[node] == me -> holder[node] = NOBODY
    :: else
    fi;
    was_in_the_way[me] = 0
}

inline crash() {
    is_down[0] = 1; holder[0] = NOBODY;
    if
    :: ASYNCHRONOUS -> ordered = done[1]
    :: else
    fi
}

active proctype fate() {
end:
    atomic { faults > 0 -> faults--; printf("Note over N0: crashes\n"); crash() }
}

proctype node_at_work(byte node) {
end:
    do
    :: atomic { !is_down[node] && done[node] < ordered ->
           printf("Note over N%d: does what the other has committed\n", node);
           if
           :: holder[node] != NOBODY -> was_in_the_way[holder[node]] = 1; holder[node] = NOBODY
           :: else
           fi;
           done[node]++; row[node] = order[done[node]] }
    od
}

/* With every statement, before it does anything. */
#define can_go_on  (!is_down[node] && !was_in_the_way[me])
#define may_fail \
    :: atomic { is_down[node] -> rollback(); heard = LOST; printf("N%d--xC%d: the connection is lost\n", node, me) } \
    :: atomic { was_in_the_way[me] -> rollback(); heard = AGAIN; printf("N%d--xC%d: 1213, another was first\n", node, me) }

#define tell(step)  printf("Note over C%d: %e\n", me, step)

/* COMMIT where nobody was first. */
inline commit() {
    ordered++; order[ordered] = me; done[node] = ordered; row[node] = me; holder[node] = NOBODY;
    holds(ordered == 1, "!! I1: two effects of one key\n")
}

#define is_first  (done[node] == ordered || TWO_PRIMARIES)

proctype caller(byte me) {
    byte node = me % 2;
    byte value;
    mtype heard;
    mtype told;

    atomic {                     /* the visitor comes when all others have got their answers */
        me != VISITOR || waiting == 0 ->
        if
        :: me == VISITOR -> faults = 0
        :: else
        fi
    };

begins:
    if
    :: atomic { can_go_on && holder[node] == NOBODY && row[node] == 0 -> holder[node] = me;
           printf("C%d->>N%d: claim the key: it is mine\n", me, node); tell(CLAIMED) }
    :: atomic { can_go_on && row[node] != 0 -> value = row[node]; told = RESULT;
           printf("C%d->>N%d: claim the key: it is taken\n", me, node); tell(REPLAYED); goto answered }
    :: atomic { can_go_on && holder[node] != NOBODY && me != VISITOR -> told = IN_PROGRESS_ERROR;
           printf("C%d->>N%d: claim the key: waited too long\n", me, node); goto answered }
    may_fail; goto again
    fi;
    if
    :: atomic { can_go_on -> printf("C%d->>N%d: the effect\n", me, node); tell(RAN) }
    :: atomic { can_go_on && me != VISITOR -> rollback(); told = RAISED; tell(GAVE_BACK); goto answered }
    may_fail; goto again
    fi;
    if
    :: atomic { can_go_on && is_first -> value = me; told = RESULT;
           printf("C%d->>N%d: store, COMMIT\n", me, node); commit(); tell(COMMITTED); goto answered }
    :: atomic { can_go_on && is_first && faults > 0 && node == 0 -> faults--; heard = LOST;
           printf("C%d-xN0: store, COMMIT, and no answer\n", me); printf("Note over N0: commits, and crashes\n");
           commit(); crash() }
    :: atomic { can_go_on && !is_first -> rollback(); heard = AGAIN;
           printf("C%d->>N%d: store, COMMIT\n", me, node); printf("N%d--xC%d: 1213, another was first\n", node, me) }
    may_fail
    fi;

again:
    atomic {
        if
        :: NO_RETRY -> told = ROLLED_BACK; goto answered
        :: else
        fi;
        node = (is_down[node] -> 1 - node : node);
        heard = 0; goto begins
    };

answered:
    atomic {
        printf("Note over C%d: is told %e\n", me, told);
        holds(told != ROLLED_BACK, "!! I11: a caller is told of what another attempt would have mended\n");
        holds(told != RESULT || said == 0 || said == value, "!! I3: two answers of one key\n");
        said = (told == RESULT -> value : said);
        if
        :: me == VISITOR ->
               holds(told == RESULT, "!! No key stuck: the last caller gets no answer\n");
               holds(ordered == 1 && order[1] == said, "!! I2: a success was acknowledged, and its effect is not there\n")
        :: else -> waiting--
        fi;
        node = 0; value = 0; heard = 0; told = 0
    }
}

init {
    byte number = 1;
    atomic {
        run node_at_work(0); run node_at_work(1);
        do
        :: number <= VISITOR -> run caller(number); number++
        :: else -> break
        od
    }
}
