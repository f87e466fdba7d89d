/* What must hold, whatever happens. The variables are the judge's: no caller looks at them, and no database.
 *
 * A key may be used again when its row has expired. That is another life of it, with an effect and an answer of its own.
 */

#define LIVES (EXPIRIES + 2)

byte life;                       /* the one that the last commit belonged to; the first is 1 */
bit over;                        /* its row has expired */
byte effects[LIVES];             /* that were committed */
short said[LIVES];               /* what callers were told; 0: nothing yet */
int kept;                        /* results whose rows were committed, a bit each */
int acknowledged;                /* results that callers were told */
int overtaken;                   /* calls whose rows others have taken over */

#define among(set, one)  ((set & (1 << one)) != 0)
#define add(set, one)    set = set | (1 << one)

inline judge_commit(who) {
    if
    :: holder == who && draft.status != NO_ROW || holder != who && wrote[who] ->
           if
           :: over || life == 0 -> life++; over = 0
           :: else
           fi;
           effects[life] = effects[life] + wrote[who];
           holds(effects[life] <= 1, "!! I1: two effects of one key\n")
    :: else
    fi;
    if
    :: holder == who && draft.status != NO_ROW && row.status != NO_ROW && row.owner != draft.owner ->
           add(overtaken, row.owner)
    :: else
    fi;
    if
    :: holder == who && draft.status == COMPLETED ->
           holds(!among(kept, draft.owner) || among(overtaken, draft.owner), "!! I1: one call has done it twice\n");
           add(kept, draft.result)
    :: else
    fi
}

/* What a caller is told. */
inline judge() {
    if
    :: told == RESULT || told == DECLINED ->
           holds(said[its_life] == 0 || said[its_life] == told * 32 + value, "!! I3: two answers of one key\n");
           said[its_life] = told * 32 + value;
           if
           :: told == RESULT -> add(acknowledged, value)
           :: else
           fi
    :: told == RAISED || told == NO_LOCK
    :: told == IN_PROGRESS_ERROR -> holds(heard == BUSY, "!! No key stuck: said to be in progress, and nobody is at work\n")
    :: told == LOST_CLAIM_ERROR -> holds(strayed, "!! I11: the function is said to have broken out, and has not\n")
    :: told == ROLLED_BACK -> holds(false, "!! I11: a caller is told of what another attempt would have mended\n")
    fi
}

/* When all are done but the visitor: it gets an answer, and what anybody was told is there. */
inline judge_visitor() {
    holds(told == RESULT || told == DECLINED, "!! No key stuck: the last caller gets no answer\n");
    holds((acknowledged & ~kept) == 0, "!! I2: a success was acknowledged, and its effect is not there\n");
    holds(holder == NOBODY || holder == PURGER, "!! No key stuck: a transaction was left open\n")
}
