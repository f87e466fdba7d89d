/* The words that all the models use. */

/* The steps of idemtable/claim/steps.py, by the names that they have there. */
mtype = { ENTERED, FOUND, CLAIMED, RUNNING, RAN, STORED, COMMITTED, REPLAYED, GAVE_BACK };

/* What a row can say of its key. */
mtype = { NO_ROW, IN_PROGRESS, COMPLETED, FAILED };

/* What a statement can be answered with. AGAIN: the transaction was rolled back, and can be begun again (1213, 1020, 40001).
 * LOST: the connection is. BUSY: whoever holds the key was waited for long enough. */
mtype = { DONE, TAKEN, AGAIN, LOST, BUSY };

/* What a caller can be told in the end. NO_LOCK: what a function raised because a statement of its own got no lock (1205).
 * ROLLED_BACK: what AGAIN and LOST are to whoever cannot begin again. */
mtype = { RESULT, DECLINED, RAISED, NO_LOCK, ROLLED_BACK, IN_PROGRESS_ERROR, LOST_CLAIM_ERROR };

/* A property. What spin says of an assertion that failed names no property: so a trail prints it. */
#define holds(truth, sentence) if :: (truth) :: else -> printf(sentence); assert(false) fi
