"""idemtable step 1."""

from idemtable import schema

revision = "b13b1ad12886"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema.upgrade(to=1)


def downgrade() -> None:
    schema.downgrade(frm=1, to=0)
