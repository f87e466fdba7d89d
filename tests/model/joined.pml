/* Calls inside a call: tasks or threads that join the transaction around them, by its door and in turns:
 * idemtable/claim/door.py, nesting.py, joined.py.
 *
 * There is one connection, and any of them could send a statement at any time: what keeps them apart is the door. The call
 * around them may end while they are at work, or before they have come. With APPLICATION there is no call around them, but a
 * transaction of somebody's own, whose session they were given (`.join`). What comes after a rollback is in protocol.pml.
 */

#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef APPLICATION
#define APPLICATION 0
#endif
#ifndef SAME_KEY                 /* whether the tasks ask for one key */
#define SAME_KEY 0
#endif
#ifndef TASKS
#define TASKS 2
#endif
#ifndef MAY_RAISE                /* whether what a task runs may raise something */
#define MAY_RAISE 1
#endif
#define OUTER  0
#define KEY    (SAME_KEY -> 1 : me)

#include "words.pml"
#include "mutants.pml"

byte faults = FAULTS;
bit crashed;                     /* the process, with all that runs in it */
mtype told[TASKS + 1];           /* what each was told; 0: nothing yet */
byte waiting = TASKS;            /* how many were told nothing yet, but for the call around them */
bit is_over;                     /* the transaction can only be rolled back, as one of them was told */

/* --- the transaction --------------------------------------------------------------------------------------------------- */

/* What was done in it for each key, and how deep in savepoints. 1: outside of all; 2: inside the first; 0: it was not done. */
byte claimed[TASKS + 1];
byte wrote[TASKS + 1];
byte stored[TASKS + 1];
byte savepoints[TASKS];          /* whose they are, the innermost last */
byte depth;

/* What was committed. */
mtype row[TASKS + 1] = NO_ROW;
byte effects[TASKS + 1];

byte k, at;                      /* used inside one step only */

#define each_key(doing) \
    k = 0; \
    do \
    :: k <= TASKS -> doing; k++ \
    :: else -> k = 0; break \
    od

#define lower(what, most, to)  if :: what[k] > most -> what[k] = to :: else fi

inline undo_from(level) { each_key(lower(claimed, level, 0); lower(wrote, level, 0); lower(stored, level, 0)) }
inline keep_from(level) { each_key(lower(claimed, level, level); lower(wrote, level, level); lower(stored, level, level)) }

inline undo_all() { undo_from(0); depth = 0 }

inline commit() {
    each_key(
        row[k] = (!claimed[k] -> row[k] : (stored[k] -> COMPLETED : IN_PROGRESS));
        effects[k] = effects[k] + (wrote[k] != 0);
        holds(row[k] != IN_PROGRESS, "!! No key stuck: a key was committed that has no result\n");
        holds(effects[k] <= 1, "!! I1: two effects of one key\n")
    );
    undo_all()
}

inline find_savepoint() {        /* `depth`, if it is gone */
    at = 0;
    do
    :: at < depth && savepoints[at] != me -> at++
    :: else -> break
    od
}

/* --- what can go wrong ------------------------------------------------------------------------------------------------- */

/* With every statement: a deadlock ends the transaction, and the next statement begins another one by itself. */
#define may_fail \
    :: atomic { faults > 0 -> faults--; undo_all(); heard = AGAIN; printf("D--xT%d: 1213, all is rolled back\n", me) }

#define tell(step)  printf("Note over T%d: %e\n", me, step)

active proctype fate() {
end:
    atomic { faults > 0 -> faults--; printf("Note over T0,D: the process crashes: ROLLBACK\n"); crashed = 1; undo_all() }
}

/* --- the door ---------------------------------------------------------------------------------------------------------- */

bit door_is_open = 1;
byte at_work;                    /* how many are inside */

#define is_free  (at_work == 0 || NO_TURNS)

inline come_in() {
    if
    :: atomic { !door_is_open -> goto alone }
    :: atomic { door_is_open && is_free -> at_work++; printf("T%d->>T0: comes in\n", me) }
    :: atomic { door_is_open && !is_free -> printf("T%d->>T0: waits for its turn\n", me) };
       if
       :: atomic { door_is_open && is_free -> at_work++; printf("T%d->>T0: comes in\n", me) }
       :: atomic { door_is_open && !is_free ->
              answer = IN_PROGRESS_ERROR; printf("T%d->>T0: waited too long\n", me); goto ends }
       :: atomic { !door_is_open -> answer = ROLLED_BACK; printf("T0-->>T%d: sent away\n", me); goto ends }
       fi
    fi
}

/* --- a call inside ----------------------------------------------------------------------------------------------------- */

proctype task(byte me) {
    mtype heard;
    mtype answer = RESULT;

    {
        come_in();

joins:  if
        :: NO_SAVEPOINT
        :: else -> atomic { savepoints[depth] = me; depth++; printf("T%d->>D: SAVEPOINT\n", me) }
        fi;
        if
        :: atomic { !claimed[KEY] && row[KEY] == NO_ROW -> claimed[KEY] = depth + 1;
               printf("T%d->>D: claim the key: it is mine\n", me); tell(CLAIMED) }
        :: atomic { stored[KEY] || row[KEY] == COMPLETED -> printf("T%d->>D: claim the key: it is taken\n", me);
               tell(REPLAYED); goto undoes }
        may_fail; goto fails
        fi;
        if
        :: atomic { wrote[KEY] = depth + 1; printf("T%d->>D: its effect\n", me) };
           if
           :: true
           :: atomic { MAY_RAISE -> answer = RAISED; printf("Note over T%d: it raises\n", me); goto undoes }
           fi
        may_fail; goto fails
        fi;
        if
        :: atomic { claimed[KEY] -> stored[KEY] = depth + 1; printf("T%d->>D: store: 1 row\n", me); tell(STORED) }
        :: atomic { !claimed[KEY] -> answer = LOST_CLAIM_ERROR; printf("T%d->>D: store: no row\n", me); goto undoes }
        may_fail; goto fails
        fi;
        atomic {
            find_savepoint();
            if
            :: NO_SAVEPOINT -> tell(COMMITTED)
            :: !NO_SAVEPOINT && at < depth ->
                   keep_from(at + 1); depth = at; printf("T%d->>D: RELEASE SAVEPOINT\n", me); tell(COMMITTED)
            :: else -> answer = ROLLED_BACK; printf("D--xT%d: no such savepoint\n", me)
            fi;
            goto leaves
        };

undoes: atomic {
            find_savepoint();
            if
            :: NO_SAVEPOINT
            :: !NO_SAVEPOINT && at < depth ->
                   undo_from(at + 1); depth = at; printf("T%d->>D: ROLLBACK TO SAVEPOINT\n", me); tell(GAVE_BACK)
            :: else -> answer = ROLLED_BACK; printf("D--xT%d: no such savepoint\n", me)
            fi;
            goto leaves
        };

fails:  if                       /* nobody here can begin the transaction again: whoever began it is told to */
        :: RETRY_INSIDE -> goto joins
        :: else -> answer = ROLLED_BACK
        fi;

leaves: atomic { at_work--; printf("T%d->>T0: leaves\n", me); goto ends };

alone:  atomic {                 /* there is no call to join: it is one of its own, and waits for whoever holds its key */
            !claimed[KEY] ->
            printf("T%d->>D: a transaction of its own: BEGIN … COMMIT\n", me);
            if
            :: row[KEY] == NO_ROW -> row[KEY] = COMPLETED; effects[KEY]++
            :: else
            fi
        };

ends:   atomic {
            told[me] = answer; printf("Note over T%d: is told %e\n", me, answer); waiting--;
            is_over = is_over || answer == ROLLED_BACK
        }
    } unless { crashed }
}

/* --- the call around them, or the application's own transaction -------------------------------------------------------- */

active proctype outer() {
    byte me = OUTER;
    mtype heard;
    mtype answer = RESULT;

    {
        atomic {
            if
            :: !APPLICATION -> claimed[OUTER] = 1; printf("T0->>D: claim the key: it is mine\n"); tell(CLAIMED)
            :: else
            fi;
            wrote[OUTER] = 1; printf("T0->>D: its effect\n");
            me = 1;
            do
            :: me <= TASKS -> run task(me); me++
            :: else -> me = OUTER; break
            od
        };
        if
        :: APPLICATION -> atomic {               /* it waits for its tasks, and rolls back when it is told to */
               waiting == 0 ->
               if
               :: is_over -> answer = ROLLED_BACK; goto undoes
               :: else -> goto commits
               fi }
        :: !APPLICATION -> tell(RAN)             /* its function ends, whoever is inside */
        :: !APPLICATION -> answer = RAISED
        fi;
        door_is_open = DOOR_LEFT_OPEN;
        if
        :: at_work == 0 || NOT_WAITED_FOR
        :: atomic { at_work && !NOT_WAITED_FOR ->
               answer = LOST_CLAIM_ERROR; printf("Note over T0: waited too long: cuts the connection\n"); goto undoes }
        fi;
        if
        :: answer == RAISED -> goto undoes
        :: else
        fi;
        if
        :: atomic { claimed[OUTER] -> stored[OUTER] = depth + 1; printf("T0->>D: store: 1 row\n"); tell(STORED) }
        :: atomic { !claimed[OUTER] -> answer = LOST_CLAIM_ERROR; printf("T0->>D: store: no row\n"); goto undoes }
        may_fail; answer = ROLLED_BACK; goto undoes
        fi;

commits:
        if
        :: atomic { printf("T0->>D: COMMIT\n"); commit(); tell(COMMITTED); goto ends }
        may_fail; answer = ROLLED_BACK
        fi;

undoes: atomic { undo_all(); printf("T0->>D: ROLLBACK\n"); tell(GAVE_BACK) };

ends:   atomic { door_is_open = 0; told[OUTER] = answer }
    } unless { crashed }
}

/* --- what must hold ---------------------------------------------------------------------------------------------------- */

active proctype judge() {
    byte me;
    atomic {
        told[OUTER] && waiting == 0 || crashed ->
        holds(crashed || told[OUTER] != RESULT || effects[OUTER], "!! I1: half of the caller's transaction was committed\n");
        me = 1;
        do
        :: me <= TASKS ->
               holds(effects[KEY] == (row[KEY] == COMPLETED), "!! I1: of an effect and its key one is there\n");
               holds(crashed || told[OUTER] != RESULT || told[me] != RESULT || effects[KEY],
                     "!! I2: a success was acknowledged, and its effect is not there\n");
               holds(crashed || told[me] == RESULT || SAME_KEY || !effects[KEY],
                     "!! I11: said to have failed, and its effect is there\n");
               me++
        :: else -> break
        od
    }
}
