/* One key, and callers who all ask for it: idemtable/claim/run.py, attempt.py, settle.py, and policy.decide.
 *
 * A statement is one step of the model, with its answer: between two of them anybody else may do anything. A client may crash
 * at each of the protocol's points and while COMMIT is on its way; then it is started anew, and asks again with the same key.
 * Names in capitals that stand as a condition are mistakes (mutants.pml), and 0 here.
 */

#ifndef CALLERS
#define CALLERS 2
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef EXPIRIES
#define EXPIRIES 1
#endif
#ifndef FUSED                    /* whether COMMIT travels with the statement that stores; of a mixed crowd: (me % 2) */
#define FUSED 0
#endif
#ifndef LOOKASIDE                /* whether a call looks for an answer before it begins a transaction */
#define LOOKASIDE 0
#endif
#ifndef MAY_RAISE                /* whether a function may raise something */
#define MAY_RAISE 1
#endif
#ifndef LOOKS                    /* how often an attempt looks again when the row that it lost to has gone */
#define LOOKS 4
#endif

#include "words.pml"
#include "mutants.pml"
#include "database.pml"

byte waiting = CALLERS;          /* callers that have not got their answer */

/* --- what can go wrong ------------------------------------------------------------------------------------------------- */

/* With every statement: two answers more that it can have. */
#define may_fail \
    :: atomic { faults > 0 -> faults--; rollback(me); heard = AGAIN; printf("D--xC%d: 1213, 1020 or 40001\n", me) } \
    :: atomic { faults > 0 -> faults--; hang_up(me, 0); heard = LOST; printf("D--xC%d: the connection is lost\n", me) }

/* At every point. */
inline tell(step) {
    if
    :: true -> printf("Note over C%d: %e\n", me, step)
    :: faults > 0 -> faults--; hang_up(me, 0); printf("Note over C%d: %e, and crashes\n", me, step); goto crashed
    fi
}

/* --- the statements ---------------------------------------------------------------------------------------------------- */

/* INSERT the key, or take an expired row over: UPDATE … WHERE owner = stale AND expired. Both wait for whoever holds the
 * key, and then find that the row is there, or is another one by now. */
#define is_free  (stale == 0 && row.status == NO_ROW || stale != 0 && row.owner == stale && row.expired)

inline claim() {
    if
    :: atomic { holder == NOBODY && is_free && !CHECK_THEN_ACT -> holder = me; made(draft, IN_PROGRESS, owner, attempt, 0);
           heard = DONE; printf("C%d->>D: claim the key: it is mine\n", me) }
    :: atomic { holder == NOBODY && !is_free && !ROWCOUNT_DECIDES && !CHECK_THEN_ACT ->
           heard = TAKEN; printf("C%d->>D: claim the key: it is taken\n", me) }
    :: atomic { holder != NOBODY && me != VISITOR && !CHECK_THEN_ACT ->
           heard = BUSY; printf("C%d->>D: claim the key: waited too long\n", me) }
    :: atomic { ROWCOUNT_DECIDES && holder == NOBODY && !is_free ->
           heard = DONE; printf("C%d->>D: INSERT … ON DUPLICATE KEY UPDATE: 1 row\n", me) }
    :: atomic { CHECK_THEN_ACT && is_free -> heard = DONE; printf("C%d->>D: SELECT the key: it is free\n", me) }
    :: atomic { CHECK_THEN_ACT && !is_free -> heard = TAKEN; printf("C%d->>D: SELECT the key: it is taken\n", me) }
    may_fail
    fi
}

/* SELECT the row that was there instead, as it was committed: in a new transaction, for the snapshot of the one that lost may
 * be older than the winner. */
#define read(from) \
    seen.status = from.status; seen.owner = from.owner; seen.result = from.result; seen.expired = from.expired; \
    seen.life = from.life

inline look() {
    if
    :: atomic { !PLAIN_SELECT -> read(row); heard = DONE; printf("D-->>C%d: the row: %e\n", me, seen.status) }
    :: atomic { PLAIN_SELECT -> heard = DONE; printf("D-->>C%d: as of BEGIN: %e\n", me, seen.status) }
    :: atomic { DIRTY_LOOK && draft.status == COMPLETED -> read(draft); seen.life = life + (over || life == 0 -> 1 : 0);
           heard = DONE; printf("D-->>C%d: the row, not committed: %e\n", me, seen.status) }
    may_fail
    fi
}

/* UPDATE … WHERE id AND owner, which must touch one row. It does if the transaction still holds its claim. If that ended
 * under the function, this is another transaction, and the row may be somebody else's, or that of another attempt. */
#define is_mine  (row.status != NO_ROW && (row.owner == owner && row.attempt == attempt || STORE_WITHOUT_OWNER))

inline store() {
    if
    :: atomic { holder == me || holder == NOBODY && (is_mine || CHECK_THEN_ACT) ->
           holder = me; made(draft, outcome, owner, attempt, value); heard = DONE; printf("C%d->>D: store: 1 row\n", me) }
    :: atomic { holder == NOBODY && !is_mine && !CHECK_THEN_ACT -> heard = TAKEN; printf("C%d->>D: store: no row\n", me) }
    may_fail
    fi
}

inline send_commit() {
    if
    :: atomic { printf("C%d->>D: COMMIT\n", me); commit(me); its_life = life; heard = DONE }
    :: atomic { faults > 0 -> faults--; hang_up(me, 1); no_answer(); printf("C%d-xD: COMMIT, and no answer\n", me) }
    :: atomic { faults > 0 -> faults--; hang_up(me, 1); printf("C%d-xD: COMMIT, and crashes\n", me); goto crashed }
    may_fail
    fi
}

/* Both in one packet. Nobody is asked in between: the statement fails by itself where the row is not the claim's, and the
 * server does nothing of what is behind it. */
inline store_with_commit() {
    if
    :: atomic { holder == me || holder == NOBODY && is_mine -> holder = me; made(draft, outcome, owner, attempt, value);
           printf("C%d->>D: store (1 row) and COMMIT\n", me); commit(me); its_life = life; heard = DONE }
    :: atomic { holder == NOBODY && !is_mine && !STORE_DOES_NOT_FAIL ->
           rollback(me); heard = TAKEN; printf("C%d->>D: store (fails) and COMMIT\n", me) }
    :: atomic { STORE_DOES_NOT_FAIL && holder == NOBODY && !is_mine ->
           printf("C%d->>D: store (no row) and COMMIT\n", me); commit(me); its_life = life; heard = DONE }
    :: atomic { faults > 0 -> faults--; send_off(); no_answer(); printf("C%d-xD: store and COMMIT, and no answer\n", me) }
    :: atomic { faults > 0 -> faults--; send_off(); printf("C%d-xD: store and COMMIT, and crashes\n", me); goto crashed }
    may_fail
    fi
}

inline send_off() {              /* the packet arrives when its client is not there any more */
    if
    :: holder == me -> made(draft, outcome, owner, attempt, value)
    :: else -> adrift = owner; its_attempt = attempt
    fi;
    hang_up(me, 1)
}

inline no_answer() { heard = LOST; unknown = 1; unsettled++ }

/* --- the function ------------------------------------------------------------------------------------------------------ */

#define raises  (MAY_RAISE && me != VISITOR)

inline business() {
    if
    :: atomic { true -> wrote[me] = 1; told = RESULT; heard = DONE; printf("C%d->>D: the effect\n", me) }
    :: atomic { raises -> told = RAISED; heard = DONE; printf("Note over C%d: it raises\n", me) }
    :: atomic { raises -> told = DECLINED; heard = DONE; printf("Note over C%d: it raises what is remembered\n", me) }
       /* an error of the database after which the transaction lives on */
    :: atomic { faults > 0 -> faults--; told = NO_LOCK; heard = DONE; printf("D--xC%d: 1205, no lock\n", me) }
       /* it swallows that its transaction has ended, and writes in the next one, which began by itself */
    :: atomic { faults > 0 -> faults--; rollback(me); wrote[me] = 1; strayed = 1; told = RESULT; heard = DONE;
           printf("D--xC%d: 1213, all is rolled back\n", me); printf("Note over C%d: swallows that\n", me);
           printf("C%d->>D: the effect\n", me) }
    may_fail
    fi
}

#define is_remembered  (told == DECLINED || told == NO_LOCK && TRANSIENT_REMEMBERED)

/* --- one call ---------------------------------------------------------------------------------------------------------- */

/* policy.decide. A row of this very call answers it, however late: its COMMIT had arrived, and nobody had heard. */
#define is_kept    (seen.status == COMPLETED || seen.status == FAILED)
#define is_stale   (is_kept && seen.expired && seen.owner != owner)
#define is_answer  (is_kept && !is_stale)

inline settled() {
    if
    :: unknown -> unknown = 0; unsettled--
    :: else
    fi
}

inline forget() {                /* runs that differ in nothing else are one to spin */
    stale = 0; looks = 0; strayed = 0; outcome = 0; value = 0; its_life = 0; heard = 0; told = 0;
    seen.status = NO_ROW; seen.owner = 0; seen.result = 0; seen.expired = 0; seen.life = 0
}

proctype caller(byte me) {
    byte owner = me;             /* random in truth: no two calls have the same, */
    byte attempt;                /* nor two attempts of one call; but they know each other for the call's */
    byte stale;                  /* whose expired row it takes over; 0: nobody's */
    byte looks;
    bit unknown;                 /* whether a COMMIT of its had no answer */
    bit strayed;                 /* whether its function broke out of its transaction */
    mtype outcome;               /* what it stores, */
    byte value;                  /* and with which value */
    byte its_life;               /* of the key, that its answer belongs to; the judge's */
    mtype heard;
    mtype told;
    Row seen;

    atomic {                     /* the visitor comes when all others have gone: nothing they left may stand in its way */
        me != VISITOR || waiting == 0 ->
        if
        :: me == VISITOR -> faults = 0
        :: else
        fi
    };

begins:
    if
    :: PLAIN_SELECT -> read(row)
    :: LOOKASIDE -> atomic {
           look();
           if
           :: heard != DONE -> goto again
           :: heard == DONE && is_answer -> goto decides
           :: else -> skip
           fi }
    :: else
    fi;

claims:                          /* BEGIN takes nothing yet: it may travel with the claim */
    atomic {
        claim();
        if
        :: (heard == DONE || heard == TAKEN) && looks == 0 -> tell(ENTERED)
        :: else
        fi;
        if
        :: heard == DONE -> tell(CLAIMED)
        :: heard == TAKEN -> goto loses
        :: heard == BUSY -> told = IN_PROGRESS_ERROR; goto answered
        :: else -> goto again
        fi
    };
    if
    :: KEY_COMMITTED_FIRST -> atomic {
           send_commit();
           if
           :: heard != DONE -> goto again
           :: else
           fi }
    :: else
    fi;
    atomic {
        tell(RUNNING);
        business();
        if
        :: heard == DONE && told == RESULT -> tell(RAN); outcome = COMPLETED; value = owner
        :: heard == DONE && is_remembered -> wrote[me] = 0; outcome = FAILED; value = told
        :: else -> goto undoes
        fi
    };
    if
    :: FUSED -> atomic { store_with_commit() }
    :: else ->
           atomic {
               store();
               if
               :: heard == DONE -> tell(STORED)
               :: else -> goto not_stored
               fi;
               if
               :: ACK_BEFORE_COMMIT && outcome == COMPLETED ->
                      add(acknowledged, value); printf("Note over C%d: says that it is done\n", me)
               :: else
               fi
           };
           atomic { send_commit() }
    fi;
    if
    :: heard == DONE -> atomic { tell(COMMITTED); goto answered }
    :: heard == AGAIN || heard == LOST -> goto again
    :: else
    fi;

not_stored:
    if
    :: heard == TAKEN -> told = LOST_CLAIM_ERROR
    :: else
    fi;

undoes:
    atomic {
        rollback(me);
        if
        :: KEY_COMMITTED_FIRST && row.owner == owner -> made(row, NO_ROW, 0, 0, 0)
        :: else
        fi;
        tell(GAVE_BACK);
        if
        :: heard == DONE || heard == TAKEN -> goto answered
        :: else -> goto again
        fi
    };

loses:
    atomic {
        if
        :: looks == LOOKS -> told = IN_PROGRESS_ERROR; goto answered
        :: else -> looks++
        fi;
        look();
        if
        :: heard != DONE -> goto again
        :: else
        fi;
decides:
        tell(FOUND);
        if
        :: seen.status == NO_ROW -> stale = 0; goto claims
        :: is_stale -> stale = seen.owner; goto claims
        :: seen.status == IN_PROGRESS && !KEY_COMMITTED_FIRST -> told = LOST_CLAIM_ERROR; goto answered
        :: seen.status == IN_PROGRESS && KEY_COMMITTED_FIRST -> told = IN_PROGRESS_ERROR; heard = BUSY; goto answered
        :: is_answer -> tell(REPLAYED)
        fi;
        its_life = seen.life; value = seen.result;
        told = (seen.status == COMPLETED -> RESULT : value);
        goto answered
    };

again:
    atomic {
        if
        :: NO_RETRY -> told = ROLLED_BACK; goto answered
        :: else
        fi;
        attempt = attempt + !ONE_OWNER; forget(); goto begins
    };

crashed:                         /* and comes back as a call that remembers nothing */
    atomic { settled(); owner = owner + CALLERS + 1; attempt = 0; forget(); goto begins };

answered:
    atomic {
        settled();
        printf("Note over C%d: is told %e\n", me, told);
        judge();
        if
        :: me == VISITOR -> judge_visitor()
        :: else -> waiting--
        fi;
        owner = 0; attempt = 0; forget()
    }
}

init {
    byte number = 1;
    atomic {
        do
        :: number <= VISITOR -> run caller(number); number++
        :: else -> break
        od
    }
}
